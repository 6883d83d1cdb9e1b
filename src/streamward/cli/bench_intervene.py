"""`streamward bench-intervene`: what changing answers in progress gains and costs."""

import argparse
import json
from pathlib import Path

from streamward.cli.common import ExitCode


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench-intervene",
        help="measure what changing answers in progress gains and costs",
        description=(
            "Asks the embedded assistant risky and ordinary prompts through the gateway, with ladders that stop,"
            " refuse, regenerate and introspect, buffers and numbers of attempts; has a guard that is not in the loop"
            " judge the answers, and writes report.json, report.md and plots. What is in the folder already is not"
            " asked again."
        ),
    )
    parser.add_argument("folder", metavar="FOLDER", help="for answers and the report; a former run is gone on with")
    parser.add_argument(
        "--risky", type=int, default=200, metavar="N", help="prompts, at most 200 (default: %(default)s)"
    )
    parser.add_argument(
        "--ordinary", type=int, default=200, metavar="N", help="prompts, at most 200 (default: %(default)s)"
    )
    parser.add_argument(
        "--hold-tokens",
        type=int,
        nargs="+",
        default=[10, 20, 40, 80],
        metavar="B",
        help="buffers (default: 10 20 40 80)",
    )
    parser.add_argument("--attempts", type=int, nargs="+", default=[1, 3, 5], metavar="N", help="(default: 1 3 5)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="per answer (default: %(default)s)")
    parser.add_argument(
        "--concurrency", type=int, default=8, metavar="N", help="answers at the same time (default: %(default)s)"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="ask nothing; report on the answers that are in the folder"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, judge, and write the report."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from streamward.bench.intervene import InterveneBench, read_prompts
    from streamward.bench.intervene_config import InterveneBenchConfig
    from streamward.bench.intervene_quality import QualityJudge
    from streamward.bench.intervene_report import figures, markdown, plot, report

    config = InterveneBenchConfig.parse(
        {
            "num_risky": arguments.risky,
            "num_ordinary": arguments.ordinary,
            "max_tokens": arguments.max_tokens,
            "hold_tokens": arguments.hold_tokens,
            "attempts": arguments.attempts,
            "concurrency": arguments.concurrency,
        },
        source="bench-intervene",
    )
    folder = Path(arguments.folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("starting", total=None)

        def advance(name: str, done: int, total: int) -> None:
            progress.update(task, description=name, completed=done, total=total)

        bench = InterveneBench(config, folder, advance=advance)
        answers = bench.read() if arguments.report_only else bench.run()
        prompts = read_prompts(config)
        quality = QualityJudge(folder, advance=advance).judge(answers, prompts)
    found = figures(answers, prompts, quality)
    (folder / "report.json").write_text(json.dumps(report(config, found), indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(found), encoding="utf-8")
    plot(found, folder / "report.png")
    print(markdown(found))
    return ExitCode.ALLOWED
