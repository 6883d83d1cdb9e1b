"""Runs of `train stream` and `train gen` as parts of other stages, and what their guards say of rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from streamward.data.jsonl import Sample
from streamward.errors import ConfigError
from streamward.loading import find_checkpoint
from streamward.model.checkpoint import load_gen, load_stream
from streamward.schema import Side
from streamward.settings import Settings
from streamward.tokenizer import GuardTokenizer
from streamward.train.config import GenTrainConfig, RunConfig, SourceConfig, StreamTrainConfig
from streamward.train.examples import make_example
from streamward.train.gen import train_gen
from streamward.train.gen_examples import AnswerWriter, RefusalWeights, make_question
from streamward.train.gen_task import score_answers
from streamward.train.initialization import is_stream_folder, shaped_as_init
from streamward.train.scoring import Score, score_examples
from streamward.train.stream import REPORT_FILE, train_stream
from streamward.train.toml_file import read_table
from streamward.train.trainer import STATE_FILE

Kind = Literal["stream", "gen"]


class RecipeConfig(Settings):
    """A training run that another stage repeats with changes."""

    kind: Kind = "stream"
    config: Path
    """TOML of `train stream` or `train gen`."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings that replace those of the file."""

    def read(self, changes: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the run's settings with `set`, then with further changes.

        Raises:
            ConfigError: The file is missing, or a key is wrong.
        """
        values = read_table(self.config) | self.set | dict(changes or {})
        kind = StreamTrainConfig if self.kind == "stream" else GenTrainConfig
        return kind.parse(values, source=str(self.config))


def run_once(config: RunConfig) -> Path:
    """Train, or return at once if this very run is finished; a run cut off goes on."""
    folder = config.output_root / config.name
    report = folder / REPORT_FILE
    wanted = json.loads(shaped_as_init(config).model_dump_json())
    if report.exists() and json.loads(report.read_text(encoding="utf-8")).get("config") == wanted:
        return folder
    if isinstance(config, StreamTrainConfig):
        train_stream(config)
    elif isinstance(config, GenTrainConfig):
        train_gen(config)
    else:
        raise ConfigError("only runs of train stream and train gen can be repeated")
    (folder / STATE_FILE).unlink()  # the optimiser's memory: several times the guard
    return folder


def score_rows(guard: str | Path, samples: Sequence[Sample], *, max_tokens: int) -> list[Score]:
    """Return what a guard says of every labelled side of some rows; `Score.example` is a row's index."""
    folder = find_checkpoint(guard)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = GuardTokenizer.from_folder(folder)
    if is_stream_folder(folder):
        found = [make_example(tokenizer, each, weight=1.0, max_tokens=max_tokens) for each in samples]
        kept = [(index, example) for index, example in enumerate(found) if example is not None]
        model = load_stream(folder, dtype=torch.bfloat16)
        for heads in (model.prompt_heads, model.response_heads):
            heads.float()
        model.to(device)
        scores = score_examples(model, [example for _, example in kept]) if kept else []
        return [_moved(score, kept[score.example][0]) for score in scores]
    placeholder = GenTrainConfig(name="score", data_root=Path(), sources=(SourceConfig(file="none"),))
    writer = AnswerWriter(tokenizer, placeholder, refusals=RefusalWeights())
    asked = []
    for index, sample in enumerate(samples):
        labels = ((Side.PROMPT, sample.prompt_label), (Side.RESPONSE, sample.response_label))
        sides = [side for side, label in labels if label is not None]
        question = make_question(tokenizer, sample, sides, writer=writer, max_tokens=max_tokens)
        if question is not None:
            asked.append((index, question))
    lm = load_gen(folder, dtype=torch.bfloat16).to(device)
    scores = score_answers(lm, [question for _, question in asked], writer.level_tokens) if asked else []
    return [_moved(score, asked[score.example][0]) for score in scores]


def _moved(score: Score, index: int) -> Score:
    return Score(index, score.side, score.unsafe, score.risky, score.level)
