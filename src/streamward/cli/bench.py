"""`streamward bench`: how fast this machine judges."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure speed on this machine",
        description=(
            "Measures what judging the next tokens of a stream costs, against re-reading the text and against the time"
            " to read the weights once. Weights are random: speed does not depend on them."
        ),
    )
    parser.add_argument("--shape", default="0.6b", metavar="S", help="0.6b, 4b, 8b or 135m (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, one stream only")
    parser.add_argument("--json", metavar="FILE", help="write one record a line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from streamward.bench.run import main_bench

    main_bench(
        shape=arguments.shape,
        quick=arguments.quick,
        json_path=None if arguments.json is None else Path(arguments.json),
    )
    return 0
