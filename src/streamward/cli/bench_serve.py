"""`streamward bench-serve`: guarded streams on this machine."""

import argparse
from pathlib import Path

from streamward.cli.common import ExitCode, say
from streamward.errors import ConfigError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench-serve",
        help="measure guarded streams on this machine",
        description=(
            "Sends many streams of a scripted upstream through the gateway, with the embedded guard and without one,"
            " and reports the delay that the guard adds; --find searches for the most streams this machine sustains."
        ),
    )
    parser.add_argument("--streams", type=int, default=8, metavar="N", help="at the same time (default: %(default)s)")
    parser.add_argument(
        "--path",
        action="append",
        choices=("direct", "unguarded", "guarded"),
        dest="paths",
        help="measure this one; may be given again (default: all)",
    )
    parser.add_argument(
        "--find", action="store_true", help="then find the number of streams that this machine sustains"
    )
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="measured, of each load (default: %(default)s)"
    )
    parser.add_argument(
        "--ramp", type=float, default=10.0, metavar="S", help="ramp before the measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--rate", type=float, default=15.0, metavar="R", help="tokens per second (default: %(default)s)"
    )
    parser.add_argument(
        "--max-p99",
        type=float,
        default=500.0,
        metavar="MS",
        help="limit of a sustained load (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write one JSON record per line")
    parser.add_argument("--markdown", metavar="FILE", help="write the report; it is printed in any case")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write."""
    from streamward.bench.serve import PATHS, Bench, LoadConfig
    from streamward.bench.serve_report import markdown, write_json_lines

    settings = {
        "seconds": arguments.seconds,
        "ramp_s": arguments.ramp,
        "rate": arguments.rate,
        "max_p99_ms": arguments.max_p99,
    }
    if arguments.find and (arguments.paths or PATHS)[-1] != "guarded":
        raise ConfigError("--find goes on from the guarded path; name it last")
    config = LoadConfig.parse(settings, source="bench-serve")
    bench = Bench(config, say=say)
    records = list(bench.compare(arguments.streams, arguments.paths or PATHS))
    if arguments.find:
        records += bench.find_most(records[-1])
    report = markdown(config, records)
    print(report)
    if arguments.json is not None:
        write_json_lines(Path(arguments.json), config, records)
    if arguments.markdown is not None:
        Path(arguments.markdown).write_text(report, encoding="utf-8")
    return ExitCode.ALLOWED
