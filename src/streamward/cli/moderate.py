"""`streamward moderate`: judge one text, a conversation, or a file of them."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from streamward.cli.common import ExitCode, add_guard_options, exit_code, load, read_bytes, read_text
from streamward.cli.show import result_json, show_result
from streamward.errors import InputError, StreamwardError
from streamward.schema import Result

if TYPE_CHECKING:
    from streamward.moderation.moderator import Moderator

_BATCH_ROWS = 32
_ITEM_KEYS = ("prompt", "response", "messages")
_EXAMPLES = """\
examples:
  streamward moderate "How do I bake bread?"
  streamward moderate --prompt "Tell me a joke" --response "Two cats walk into a bar" --json
  streamward moderate --messages conversation.json --policy loose
  streamward moderate --jsonl traffic.jsonl > verdicts.jsonl
  cat prompt.txt | streamward moderate -
"""


class Row(NamedTuple):
    """One line of a JSONL file: what it asks, or what is wrong with it."""

    label: dict[str, object]
    item: dict[str, object] | None
    problem: str | None


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "moderate",
        help="judge a prompt, a response or a conversation",
        description="Judges a prompt, a response or a conversation. Exit code 3 if the policy blocks it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="a prompt; - reads it from standard input")
    parser.add_argument("--prompt", metavar="P", help="what the user says")
    parser.add_argument("--response", metavar="R", help="what the assistant answers")
    parser.add_argument("--messages", metavar="FILE", help="JSON list of messages with role and content (- for stdin)")
    parser.add_argument(
        "--jsonl", metavar="FILE", help="one JSON object a line with prompt, response or messages (- for stdin)"
    )
    add_guard_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a text to read")
    parser.add_argument("--verdicts", action="store_true", help="with --json: the verdict of every token too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge what was given and print it."""
    if arguments.jsonl is not None:
        if any(value is not None for value in (arguments.text, *_single(arguments).values())):
            raise InputError("--jsonl holds everything to judge; give nothing beside it")
        return _run_rows(arguments)
    item = _read_item(arguments)
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
        item["messages"] = _read_messages(str(item["messages"]))
    if not item:
        raise InputError("there is nothing to judge; see streamward moderate --help")
    return item


def _read_messages(path: str) -> object:
    data = read_bytes(path)
    try:
        return json.loads(data)
    except ValueError as error:
        raise InputError(f"{path!r} is not JSON; it must hold a list of messages with role and content") from error


def _run_rows(arguments: argparse.Namespace) -> int:
    codes: set[int] = set()
    stream = sys.stdin.buffer if arguments.jsonl == "-" else _open(arguments.jsonl)
    with stream, load(arguments) as guard, _progress() as advance:
        waiting = _read_rows(stream)
        while rows := list(islice(waiting, _BATCH_ROWS)):
            for row, answer in zip(rows, _judge(guard, rows), strict=True):
                codes.add(_print_row(arguments, row, answer))
            sys.stdout.flush()
            advance(len(rows))
    for code in (ExitCode.BAD_INPUT, ExitCode.FAILURE, ExitCode.BLOCKED):
        if code in codes:
            return code
    return ExitCode.ALLOWED


def _open(path: str) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        raise InputError(f"{path!r} cannot be read") from error


def _read_rows(lines: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _read_row(line, number)


def _read_row(line: bytes, number: int) -> Row:
    label: dict[str, object] = {"line": number}
    try:
        raw = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return Row(label, None, "the line is not JSON")
    if not isinstance(raw, dict):
        return Row(label, None, "the line is not a JSON object")
    if isinstance(raw.get("id"), str | int):
        label = {"id": raw["id"], **label}
    return Row(label, {name: raw[name] for name in _ITEM_KEYS if raw.get(name) is not None}, None)


def _judge(guard: "Moderator", rows: Sequence[Row]) -> list[Result | StreamwardError]:
    """Judge the rows together; if one of them cannot be judged, each for itself."""
    good = [row.item for row in rows if row.item is not None]
    try:
        results = iter(guard.moderate_batch(good))
        return [InputError(row.problem or "") if row.item is None else next(results) for row in rows]
    except StreamwardError:
        return [_judge_one(guard, row) for row in rows]


def _judge_one(guard: "Moderator", row: Row) -> Result | StreamwardError:
    if row.item is None:
        return InputError(row.problem or "")
    try:
        return guard.moderate(**row.item)  # type: ignore[arg-type]  # checked there
    except StreamwardError as error:
        return error


def _print_row(arguments: argparse.Namespace, row: Row, answer: Result | StreamwardError) -> ExitCode:
    if isinstance(answer, Result):
        _print(arguments, answer, row.label)
        return exit_code(answer.decision)
    if arguments.json:
        print(json.dumps({**row.label, "error": {"code": answer.code, "message": str(answer)}}))
    else:
        print(f"line {row.label['line']}: {answer}")
    return ExitCode.BAD_INPUT if isinstance(answer, InputError) else ExitCode.FAILURE


def _print(arguments: argparse.Namespace, result: Result, label: dict[str, object]) -> None:
    if arguments.json:
        print(json.dumps({**label, **result_json(result, has_verdicts=arguments.verdicts)}))
    else:
        show_result(result, title=f"line {label['line']}" if label else None)


@contextmanager
def _progress() -> Iterator[Callable[[int], object]]:
    """Count rows on standard error while a person watches it and the output goes elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("judged"), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("rows", total=None)
        yield lambda rows: progress.advance(task, rows)
