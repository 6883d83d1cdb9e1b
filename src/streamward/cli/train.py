"""`streamward train STAGE`: one stage of the recipe, from one config file."""

import argparse
import importlib
import logging
from pathlib import Path
from typing import NamedTuple

from streamward.cli.common import say
from streamward.errors import ConfigError


class Stage(NamedTuple):
    """One stage of the recipe.

    Attributes:
        entry: `module:function`; the function takes the config's path and returns the path of what it wrote.
        example: Config of a real run, below `configs/train/`.
    """

    name: str
    help: str
    entry: str
    example: str


STAGES = (
    Stage(
        "data", "splits from sources: no repeats, no benchmark rows, balanced", "streamward.train.data.run:run", "data"
    ),
    Stage(
        "audit-cues",
        "counts of surface cues that predict the labels of a run's rows",
        "streamward.train.cue_audit:run",
        "stream-135m-balance",
    ),
    Stage("synthesize", "rows from topics, templates and a model", "streamward.train.synthesize.run:run", "synthesize"),
    Stage("label", "labels by the vote of several guards", "streamward.train.label.run:run", "label"),
    Stage(
        "project-labels",
        "labels of translations, from the labels of one language",
        "streamward.train.project_labels:run",
        "project-labels",
    ),
    Stage(
        "stream",
        "a Stream guard: LoRA over a base, and token heads",
        "streamward.train.stream:train",
        "stream-135m-balance",
    ),
    Stage(
        "gen", "a Gen guard: LoRA over a base, and answers to its instruction", "streamward.train.gen:train", "gen-135m"
    ),
    Stage(
        "calibrate",
        "a temperature and operating points of a Stream guard",
        "streamward.train.calibrate:run",
        "calibrate-135m-balance",
    ),
    Stage(
        "controversial",
        "rows whose conflicting readings are labelled Controversial",
        "streamward.train.controversial:run",
        "controversial",
    ),
    Stage("distill", "rows whose labels a teacher has refined", "streamward.train.distill:run", "distill"),
    Stage(
        "token-labels",
        "rows with the character their harm begins at",
        "streamward.train.token_labels:run",
        "token-labels",
    ),
    Stage("ablate", "a table of runs that differ in a few settings each", "streamward.train.ablation:run", "ablation"),
)
_EXTRAS = {"torch", "tqdm", "safetensors", "peft", "trl", "accelerate", "datasets", "transformers"}
_EXAMPLE = "example: streamward train stream --config configs/train/stream-135m-balance.toml (goes on where it stopped)"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its stages."""
    parser = commands.add_parser(
        "train", help="train a guard", description="Trains guards. See docs/how-to/training.md.", epilog=_EXAMPLE
    )
    stages = parser.add_subparsers(metavar="STAGE", required=True)
    for stage in STAGES:
        command = stages.add_parser(stage.name, help=stage.help, description=f"Makes {stage.help}.")
        command.add_argument(
            "--config", required=True, metavar="FILE", help=f"TOML; see configs/train/{stage.example}.toml"
        )
        command.set_defaults(run=_run, stage=stage)


def _run(arguments: argparse.Namespace) -> int:
    module_name, _, function = arguments.stage.entry.partition(":")
    try:
        # Importing takes seconds, so only the requested stage is imported.
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise ConfigError(f"training needs {error.name}; run: pip install 'streamward[train]'") from error
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    written: Path = getattr(module, function)(Path(arguments.config))
    from streamward.train.headline import headline

    say(headline(written))
    print(written)
    return 0
