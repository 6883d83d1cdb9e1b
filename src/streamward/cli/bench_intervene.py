"""`streamward bench-intervene`: what changing answers in progress gains and costs."""

import argparse
import json
from pathlib import Path

from streamward.cli.common import ExitCode
from streamward.cli.progress import stage_progress


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench-intervene",
        help="measure what changing answers in progress gains and costs",
        description=(
            "Asks the embedded assistant risky and ordinary prompts, in this process, with ladders that stop, refuse,"
            " regenerate and introspect, buffers and numbers of attempts; has a guard that is not in the loop judge"
            " the answers, and writes report.json, report.md and a plot. What is in the folder already is not computed"
            " again."
        ),
    )
    parser.add_argument("folder", metavar="FOLDER", help="for answers and the report; an earlier run is resumed")
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
    parser.add_argument("--max-tokens", type=int, default=96, metavar="N", help="per answer (default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=32, metavar="N", help="answers written at the same time (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as many as there are cores)")
    parser.add_argument(
        "--report-only", action="store_true", help="ask nothing; report on the answers that are in the folder"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, judge, and write the report."""
    import streamward
    from streamward.bench.answer_writer import BatchedAssistant
    from streamward.bench.intervene import GUARD, InterveneBench, read_prompts
    from streamward.bench.intervene_config import InterveneBenchConfig, loop_policy
    from streamward.bench.intervene_quality import JUDGE, QualityJudge
    from streamward.bench.intervene_report import figures, markdown, plot, report
    from streamward.bench.recorded_guard import RecordedGuard

    config = InterveneBenchConfig.parse(
        {
            "num_risky": arguments.risky,
            "num_ordinary": arguments.ordinary,
            "max_tokens": arguments.max_tokens,
            "hold_tokens": arguments.hold_tokens,
            "attempts": arguments.attempts,
            "batch": arguments.batch,
            "threads": arguments.threads,
        },
        source="bench-intervene",
    )
    folder = Path(arguments.folder)
    engine = streamward.EngineConfig(threads=config.threads)
    prompts = read_prompts(config)
    with stage_progress() as advance:
        writer = BatchedAssistant(batch=config.batch, threads=config.threads)
        bench = InterveneBench(config, folder, advance=advance)
        if arguments.report_only:
            answers = bench.read()
        else:
            with streamward.load(GUARD, policy=loop_policy(), engine=engine) as guard:
                answers = bench.run(RecordedGuard(guard), writer)
        with streamward.load(JUDGE, engine=engine) as judge:
            quality = QualityJudge(folder, guard=judge, writer=writer, advance=advance).judge(answers, prompts)
    found = figures(answers, prompts, quality)
    (folder / "report.json").write_text(json.dumps(report(config, found), indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(found), encoding="utf-8")
    plot(found, folder / "report.png")
    print(markdown(found))
    return ExitCode.ALLOWED
