"""`streamward train`: train a guard from a config file."""

import argparse
import logging
from pathlib import Path

from streamward.errors import ConfigError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its stages."""
    parser = commands.add_parser(
        "train", help="train a guard", description="Trains guards. See docs/training.md.", epilog=_EXAMPLE
    )
    stages = parser.add_subparsers(metavar="STAGE", required=True)
    stream = stages.add_parser("stream", help="a Stream guard: LoRA over a base, and token heads")
    stream.add_argument("--config", required=True, metavar="FILE", help="TOML; see configs/train/stream-135m.toml")
    stream.set_defaults(run=_stream)


_EXAMPLE = "example: streamward train stream --config configs/train/stream-135m.toml (goes on where it stopped)"


def _stream(arguments: argparse.Namespace) -> int:
    try:
        from streamward.train.stream import train
    except ModuleNotFoundError as error:
        raise ConfigError(f"training needs {error.name}; run: pip install 'streamward[train]'") from error
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(train(Path(arguments.config)))
    return 0
