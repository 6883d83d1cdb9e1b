"""`streamward bench`: how fast this machine judges."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure speed on this machine",
        description=(
            "Measures the time to judge the next tokens of streams, beside re-reading the text, transformers and the"
            " roofline of this machine. Weights are random: speed does not depend on them."
        ),
    )
    parser.add_argument(
        "--shape",
        action="append",
        metavar="S",
        help="0.6b, 4b, 8b, 135m or 135m-18; may be given again (default: 0.6b and 135m)",
    )
    parser.add_argument("--quick", action="store_true", help="one context, one stream, fewer repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one JSON record per line")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture (needs matplotlib)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from streamward.bench.run import main_bench

    main_bench(
        shapes=arguments.shape or ["0.6b", "135m"],
        quick=arguments.quick,
        json_path=arguments.json,
        plot_path=arguments.plot,
    )
    return 0
