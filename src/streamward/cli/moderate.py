"""`streamward moderate`: judge one text, a conversation, or a file of them."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from streamward.cli.common import (
    ExitCode,
    add_guard_options,
    called,
    exit_code,
    load,
    needing,
    open_bytes,
    read_json,
    read_text,
    say,
)
from streamward.cli.progress import file_progress, row_progress
from streamward.cli.show import show_result
from streamward.errors import InputError, StreamwardError
from streamward.moderation.conversation import read_conversation
from streamward.moderation.rows import InputRow, answer_json, judge_row, read_row, result_json
from streamward.policy import Policy
from streamward.schema import Result
from streamward.text_files import read_lines

if TYPE_CHECKING:
    from streamward.moderation.moderator import Moderator

_BATCH_ROWS = 32
_SHARD_ROWS = 500
_EXAMPLES = """\
examples:
  streamward moderate "How do I bake bread?"
  streamward moderate --prompt "Tell me a joke" --response "Two cats walk into a bar" --json
  streamward moderate --messages conversation.json --policy loose
  streamward moderate --jsonl traffic.jsonl --json > verdicts.jsonl
  streamward moderate --ray traffic.parquet verdicts.parquet --workers 8
  cat prompt.txt | streamward moderate -
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "moderate",
        help="judge a prompt, a response or a conversation",
        description="Judges a prompt, a response or a conversation. Exit code 3 if the policy blocks it.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="a prompt; - reads it from standard input")
    parser.add_argument("--prompt", metavar="P", help="what the user says")
    parser.add_argument("--response", metavar="R", help="what the assistant answers")
    parser.add_argument(
        "--messages", metavar="FILE", help="JSON list of messages as OpenAI's clients write them (- for stdin)"
    )
    parser.add_argument(
        "--jsonl", metavar="FILE", help="one JSON object per line with prompt, response or messages (- for stdin)"
    )
    parser.add_argument(
        "--ray",
        nargs=2,
        metavar=("IN", "OUT"),
        help="judge a JSONL or Parquet file with workers on Ray; the same command goes on where it was interrupted",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="with --ray (default: %(default)s)"
    )
    parser.add_argument(
        "--shard-rows",
        type=int,
        default=_SHARD_ROWS,
        metavar="N",
        help="with --ray: most rows a killed worker does again (default: %(default)s)",
    )
    parser.add_argument("--address", metavar="A", help="with --ray: cluster to join (default: start Ray here)")
    add_guard_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of readable text")
    parser.add_argument("--verdicts", action="store_true", help="with --json or --ray: the verdict of every token too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge what was given and print it."""
    if arguments.ray is not None:
        if any(value is not None for value in (arguments.text, arguments.jsonl, *_single(arguments).values())):
            raise InputError("--ray names everything to judge; give nothing beside it")
        return _run_job(arguments)
    if arguments.jsonl is not None:
        if any(value is not None for value in (arguments.text, *_single(arguments).values())):
            raise InputError("--jsonl holds everything to judge; give nothing beside it")
        return _run_rows(arguments)
    item = _read_item(arguments)
    read_conversation(**item, max_chars=sys.maxsize)  # type: ignore[arg-type]  # what is wrong shows before loading
    with load(arguments) as guard:
        result = guard.moderate(**item)  # type: ignore[arg-type]  # checked there
    _print(arguments, result, {})
    return exit_code(result.decision)


def _single(arguments: argparse.Namespace) -> dict[str, str | None]:
    return {"prompt": arguments.prompt, "response": arguments.response, "messages": arguments.messages}


def _read_item(arguments: argparse.Namespace) -> dict[str, object]:
    item: dict[str, object] = {name: value for name, value in _single(arguments).items() if value is not None}
    text = arguments.text
    if text is None and not item and not sys.stdin.isatty():
        text = "-"
    if text is not None:
        if item.keys() & {"prompt", "messages"}:
            raise InputError("TEXT is the prompt; give it or --prompt or --messages")
        item["prompt"] = read_text(text) if text == "-" else text
    if "messages" in item:
        item["messages"] = read_json(str(item["messages"]))
    if not item:
        raise InputError("there is nothing to judge; see streamward moderate --help")
    return item


def _run_rows(arguments: argparse.Namespace) -> int:
    codes: set[int] = set()
    with open_bytes(arguments.jsonl) as file:
        waiting = (read_row(line) for line in read_lines(file))
        rows = list(islice(waiting, _BATCH_ROWS))
        if not rows:
            raise InputError(f"{called(arguments.jsonl)} has no rows, so there is nothing to judge")
        with load(arguments) as guard, row_progress() as advance:
            while rows:
                for row, answer in zip(rows, _judge(guard, rows), strict=True):
                    codes.add(_print_row(arguments, row, answer))
                sys.stdout.flush()
                advance(len(rows))
                rows = list(islice(waiting, _BATCH_ROWS))
    for code in (ExitCode.BAD_INPUT, ExitCode.FAILURE, ExitCode.BLOCKED):
        if code in codes:
            return code
    return ExitCode.ALLOWED


def _run_job(arguments: argparse.Namespace) -> int:
    with needing("--ray needs", "ray"):
        from streamward.distributed.job import ModerationJob, run_job
    for name in ("workers", "shard_rows"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}; it must be at least 1")
    source, output = arguments.ray
    job = ModerationJob(
        source=Path(source),
        output=Path(output),
        guard=arguments.guard,
        policy=Policy.load(arguments.policy),
        has_verdicts=arguments.verdicts,
        workers=arguments.workers,
        shard_rows=arguments.shard_rows,
        address=arguments.address,
    )
    with file_progress() as told:
        counts = run_job(job, told)
    if not counts.rows:
        raise InputError(f"{source!r} has no rows, so there is nothing to judge")
    say(f"{counts.rows} rows in {output}: {counts.blocked} blocked, {counts.bad} bad, {counts.failed} failed")
    for code, number in (
        (ExitCode.BAD_INPUT, counts.bad),
        (ExitCode.FAILURE, counts.failed),
        (ExitCode.BLOCKED, counts.blocked),
    ):
        if number:
            return code
    return ExitCode.ALLOWED


def _judge(guard: "Moderator", rows: Sequence[InputRow]) -> list[Result | StreamwardError]:
    """Judge the rows together; if one of them cannot be judged, each for itself."""
    good = [row.item for row in rows if row.item is not None]
    try:
        results = iter(guard.moderate_batch(good))
        return [InputError(row.problem or "") if row.item is None else next(results) for row in rows]
    except StreamwardError:
        return [judge_row(guard, row) for row in rows]


def _print_row(arguments: argparse.Namespace, row: InputRow, answer: Result | StreamwardError) -> ExitCode:
    if isinstance(answer, Result):
        _print(arguments, answer, row.label)
        return exit_code(answer.decision)
    if arguments.json:
        print(json.dumps(answer_json(row, answer)))
    else:
        print(f"line {row.label['line']}: {answer}")
    return ExitCode.BAD_INPUT if isinstance(answer, InputError) else ExitCode.FAILURE


def _print(arguments: argparse.Namespace, result: Result, label: dict[str, object]) -> None:
    if arguments.json:
        print(json.dumps({**label, **result_json(result, has_verdicts=arguments.verdicts)}))
    else:
        show_result(result, title=f"line {label['line']}" if label else None)
