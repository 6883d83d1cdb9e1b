"""`streamward evaluate`: measure the quality of guards on benchmark sets."""

import argparse
import json
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamward.cli.common import DEFAULT_GUARD, ExitCode, read_text, say
from streamward.cli.evaluate_rules import evaluate_rules
from streamward.errors import ConfigError, InputError
from streamward.suggestions import suggest

if TYPE_CHECKING:
    from streamward.evals.guard_choice import EndpointOptions
    from streamward.evals.guards import GuardUnderTest
    from streamward.evals.predictions import GuardRun
    from streamward.evals.sets import EvalSet
    from streamward.policy import Policy

_COMPARE, _LIST, _TABLE, _RULES = "compare", "list", "table", "rules"
_SUITES = ("all", "published", "quick", "robustness", "everyday", "cues", "languages")
_BASELINES = ("keyword", "tfidf")
_LINE_EVERY_S = 60.0
_EXAMPLES = """\
examples:
  streamward evaluate bench/ --suite quick --out reports/quick
  streamward evaluate bench/ --guard stream-135m --guard ./my-guard --baseline keyword --out reports/two
  streamward evaluate bench/ --guard http://localhost:8000/v1#llama-guard --format llama-guard --out reports/lg
  streamward evaluate --suite everyday --out reports/everyday
  streamward evaluate hub --sets toxicchat_test --out reports/toxicchat
  streamward evaluate compare reports/a/report.json reports/b/report.json --out reports/a-b
  streamward evaluate table reports/a --baseline-report reports/keyword --into README.md
  streamward evaluate rules datasets/rules --policy house.toml --out reports/rules
  streamward evaluate list
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure guards on benchmark sets",
        description="Judges benchmark sets with guards and reports their quality. See docs/reference/evaluation.md.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "what",
        nargs="*",
        metavar="DATA_DIR",
        help="folder of sets, or `hub`; the suites everyday and cues need none;"
        " or `compare REPORT REPORT...`, `table REPORT`, `rules SET` for a policy's own rules, or `list` for the sets"
        " known",
    )
    parser.add_argument("--out", metavar="DIR", help="where reports go; predictions are kept there too")
    parser.add_argument("--cache", metavar="DIR", help="keep predictions here instead, to share them between runs")
    parser.add_argument(
        "--baseline-report",
        "--floor",
        metavar="REPORT",
        help="with `table`: report of a baseline, for one more column (`--floor` is the former name)",
    )
    parser.add_argument("--into", metavar="FILE", help="with `table`: put it between the markers of a Markdown file")
    choice = parser.add_argument_group("what is judged")
    choice.add_argument("--suite", choices=_SUITES, default="all", help="default: %(default)s")
    choice.add_argument("--sets", metavar="A,B", help="only these sets")
    choice.add_argument("--limit", type=int, metavar="N", help="at most N rows of each set, a fixed sample")
    choice.add_argument(
        "--held-out",
        "--held-back",
        dest="held_out",
        type=float,
        metavar="F",
        help="only rows that training with this validation_fraction left out",
    )
    choice.add_argument("--robustness", action="store_true", help="judge prompts under perturbations too")
    _add_guard_options(parser)
    parser.set_defaults(run=run)


def _add_guard_options(parser: argparse.ArgumentParser) -> None:
    guards = parser.add_argument_group("guards")
    guards.add_argument(
        "--guard",
        action="append",
        metavar="G",
        help="embedded guard, checkpoint folder, hub id, http://host/v1#model, module:function or any-guardrail:NAME;"
        f" may be given again (default: {DEFAULT_GUARD}, unless there is a baseline)",
    )
    guards.add_argument("--policy", default="strict", metavar="P", help="strict, loose or a TOML file")
    guards.add_argument(
        "--baseline", action="append", choices=_BASELINES, default=[], help="a baseline guard; may be given again"
    )
    guards.add_argument(
        "--baseline-train",
        action="append",
        metavar="DIR",
        default=[],
        help="folder of labelled JSON lines that the tfidf baseline is trained on",
    )
    endpoints = parser.add_argument_group("guards behind an endpoint")
    endpoints.add_argument(
        "--format", default="qwen3guard", metavar="F", help="what they answer; see docs/reference/evaluation.md"
    )
    endpoints.add_argument("--endpoint-key-env", metavar="NAME", help="environment variable that holds the key")
    endpoints.add_argument("--concurrency", type=int, default=16, metavar="N", help="requests at a time (%(default)s)")
    endpoints.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds of one try (%(default)s)")
    endpoints.add_argument("--retries", type=int, default=4, metavar="N", help="further tries of a row (%(default)s)")
    endpoints.add_argument(
        "--prompt-template", metavar="FILE", help="text with {prompt} and {response} to send instead"
    )
    endpoints.add_argument("--extra-body", metavar="JSON", help="further keys of each request")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, compare or list."""
    first, *rest = arguments.what or [None]
    if first == _LIST and not rest:
        return _list_sets()
    if first == _TABLE:
        return _make_table(rest, arguments.baseline_report, into=arguments.into)
    if arguments.out is None:
        raise InputError("--out is missing; give the folder that the report goes to")
    if first == _COMPARE:
        return _compare(rest, Path(arguments.out))
    if first == _RULES:
        return evaluate_rules(arguments, rest)
    if rest:
        raise InputError(f"give one folder of sets, not {len(arguments.what)}")
    return _evaluate(arguments, first)


def _compare(reports: Sequence[str], out: Path) -> int:
    if len(reports) < 2:
        raise InputError("compare needs two or more reports")
    _check_extra()
    from streamward.evals.compare import write_comparison

    write_comparison([Path(report) for report in reports], out)
    print(out)
    return ExitCode.ALLOWED


def _make_table(reports: Sequence[str], baseline: str | None, *, into: str | None) -> int:
    if len(reports) != 1:
        raise InputError("table needs one report")
    from streamward.evals.report_model import read_report
    from streamward.evals.report_tables import put_table, quality_table

    baseline_report = None if baseline is None else read_report(Path(baseline))
    table = quality_table(read_report(Path(reports[0])), baseline=baseline_report)
    if into is None:
        print(table, end="")
    else:
        put_table(table, Path(into))
        print(into)
    return ExitCode.ALLOWED


def _list_sets() -> int:
    from rich.console import Console
    from rich.table import Table

    from streamward.evals.registry import columns_of, set_entries

    table = Table(box=None, pad_edge=False)
    for column in ("set", "rows", "sides", "licence", "published columns"):
        table.add_column(column, justify="right" if column == "rows" else "left")
    for entry in set_entries():
        published = ", ".join(f"{column.name} ({column.comparable})" for column in columns_of(entry.name))
        table.add_row(entry.name, str(entry.rows or "-"), ", ".join(entry.sides), entry.licence, published)
    Console().print(table)
    return ExitCode.ALLOWED


def _evaluate(arguments: argparse.Namespace, source: str | None) -> int:
    from streamward.evals.suites import Suite, plan
    from streamward.policy import Policy

    for name in ("limit", "concurrency"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}; it must be at least 1")
    if arguments.held_out is not None and not 0 < arguments.held_out < 1:
        raise InputError(f"--held-out is {arguments.held_out}; it must be between 0 and 1")
    policy, endpoint = Policy.load(arguments.policy), _endpoint_options(arguments)
    _check_extra()
    suite = Suite(arguments.suite)
    sets = plan(
        _packaged(arguments) if source is None else _read_sets(source, arguments.sets, held_out=arguments.held_out),
        suite,
        has_robustness=arguments.robustness,
        max_rows=arguments.limit,
    )
    if not sets:
        raise InputError(f"the suite {suite} finds none of its rows in {source!r}")
    out = Path(arguments.out)
    guards = list(_open_guards(arguments, policy=policy, endpoint=endpoint, sets=sets))
    folders = _folders(out, [name for name, _ in guards])
    is_failed = False
    for folder, (_, make) in zip(folders, guards, strict=True):
        cache = Path(arguments.cache or out / "predictions")
        run_of_guard = _run_guard(make(), sets, cache=cache, suite=suite, given=arguments.given)
        is_failed |= _report(run_of_guard, folder)
    if len(folders) > 1:
        from streamward.evals.compare import write_comparison

        write_comparison([folder / "report.json" for folder in folders], out)
        print(out)
    return ExitCode.FAILURE if is_failed else ExitCode.ALLOWED


def _packaged(arguments: argparse.Namespace) -> "list[EvalSet]":
    """Read the set of the package that the suite is named after."""
    from streamward.evals.packaged_sets import packaged_set
    from streamward.evals.suites import PACKAGED_SUITES

    if arguments.suite not in PACKAGED_SUITES:
        packaged = " and ".join(sorted(PACKAGED_SUITES))
        raise InputError(f"give a folder of sets, or `hub`; only the suites {packaged} need none")
    if arguments.sets is not None or arguments.held_out is not None:
        raise InputError("--sets and --held-out choose among the sets of a folder; give the folder too")
    return packaged_set(arguments.suite)


def _read_sets(source: str, names: str | None, *, held_out: float | None) -> "list[EvalSet]":
    from streamward.evals.hub_sets import HUB, fetch_set, hub_entries
    from streamward.evals.sets import available_sets, choose_sets, load_set, read_set

    folder = Path(source)
    entries = hub_entries() if source == HUB else available_sets(folder)
    if names is not None:
        entries = choose_sets(entries, [name.strip() for name in names.split(",")])
    if source == HUB:
        return [each for entry in entries for each in read_set(fetch_set(entry), entry, held_out=held_out)]
    return [each for entry in entries for each in load_set(folder, entry, held_out=held_out)]


Opening = tuple[str, "Callable[[], GuardUnderTest]"]


def _open_guards(
    arguments: argparse.Namespace, *, policy: "Policy", endpoint: "EndpointOptions", sets: "Sequence[EvalSet]"
) -> Iterator[Opening]:
    """Check each guard, and yield its name and a way to open it; only one is open at a time."""
    from streamward.evals.baselines import KeywordGuard, TfidfGuard
    from streamward.evals.guard_choice import check_guard, open_guard

    for name in arguments.guard or ([] if arguments.baseline else [DEFAULT_GUARD]):
        check_guard(name, policy=policy, endpoint=endpoint)
        yield name, partial(open_guard, name, policy=policy, endpoint=endpoint)
    if "keyword" in arguments.baseline:
        yield "keyword", lambda: KeywordGuard(policy=policy)
    if "tfidf" in arguments.baseline:
        sources = [Path(path) for path in arguments.baseline_train]
        missing = [str(path) for path in sources if not path.exists()]
        if missing or not sources:
            raise InputError(
                f"{missing[0]!r} does not exist" if missing else "the tfidf baseline needs --baseline-train DIR"
            )
        held_out = {row.text for each in sets for row in each.rows}
        yield "tfidf", lambda: TfidfGuard(sources, policy=policy, held_out=held_out)


def _folders(out: Path, names: Sequence[str]) -> list[Path]:
    """Return a report folder for each guard: `out` itself for one, else folders in it named after them."""
    if len(names) == 1:
        return [out]
    slugs: list[str] = []
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[-60:] or "guard"
        slugs.append(slug if slug not in slugs else f"{slug}-{len(slugs) + 1}")
    return [out / slug for slug in slugs]


def _run_guard(
    guard: "GuardUnderTest", sets: "Sequence[EvalSet]", *, cache: Path, suite: str, given: "Sequence[str]"
) -> "GuardRun":
    from streamward.evals.runner import run_guard, work

    command = shlex.join(["streamward", *given])
    total = sum(work(row) for each in sets for row in each.rows)
    try:
        with _progress(guard.name, total) as on_progress:
            return run_guard(guard, sets, cache=cache, command=command, suite=suite, on_progress=on_progress)
    finally:
        guard.close()


def _report(run_of_guard: "GuardRun", folder: Path) -> bool:
    """Write a guard's report and say what is in it; return whether none of its rows could be judged."""
    from streamward.evals.headline import headline
    from streamward.evals.report import write_report
    from streamward.evals.report_model import read_report

    folder.mkdir(parents=True, exist_ok=True)
    write_report(run_of_guard, folder)
    is_failed = _say_failures(run_of_guard)
    say(f"{run_of_guard.guard['name']}: {headline(read_report(folder))}; report: {folder / 'report.md'}")
    print(folder)
    return is_failed


def _say_failures(run_of_guard: "GuardRun") -> bool:
    """Tell how many rows could not be judged; return whether all of them."""
    from streamward.evals.runner import failure_codes, is_failed

    if codes := failure_codes(run_of_guard):
        facts = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))
        say(f"{run_of_guard.guard['name']}: rows without a judgement: {facts}; run again to ask once more")
    return is_failed(run_of_guard)


def _endpoint_options(arguments: argparse.Namespace) -> "EndpointOptions":
    from streamward.evals.guard_choice import FORMAT_NAMES, EndpointOptions

    if arguments.format not in FORMAT_NAMES:
        raise InputError(
            f"there is no format {arguments.format!r}; there are {', '.join(FORMAT_NAMES)}"
            f"{suggest(arguments.format, FORMAT_NAMES)}"
        )
    template = None if arguments.prompt_template is None else read_text(arguments.prompt_template)
    if template is not None and "{prompt}" not in template:
        raise InputError(f"{arguments.prompt_template!r} has no place {{prompt}}")
    return EndpointOptions(
        format_name=arguments.format,
        key_env=arguments.endpoint_key_env,
        concurrency=arguments.concurrency,
        timeout_s=arguments.timeout,
        max_retries=arguments.retries,
        template=template,
        extra_body=_read_json(arguments.extra_body),
    )


def _read_json(text: str | None) -> dict[str, Any]:  # Any: JSON values
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise InputError("--extra-body is not JSON") from error
    if not isinstance(value, dict):
        raise InputError("--extra-body must be a JSON object")
    return value


def _check_extra() -> None:
    """Raise now what would else be found missing after hours."""
    for name in ("matplotlib", "scipy"):
        if find_spec(name) is None:
            raise ConfigError(f"evaluation needs {name}; run: pip install 'streamward[eval]'")


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[str, int], object]]:
    """Show how far a guard is and how long it will take, in terms of text; on standard error."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_progress(name, total)
        return
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        task = progress.add_task(name, total=total)
        yield lambda set_name, work: progress.update(task, advance=work, description=f"{name}: {set_name}")


def _line_progress(name: str, total: int) -> Callable[[str, int], None]:
    """Say how far a guard is once a minute, for logs."""
    start = said = time.monotonic()
    done = 0

    def advance(set_name: str, work: int) -> None:
        nonlocal said, done
        done += work
        now = time.monotonic()
        if now - said >= _LINE_EVERY_S:
            said = now
            say(f"{name}: {100 * done / total:.0f} % after {(now - start) / 60:.0f} minutes, at {set_name}")

    return advance
