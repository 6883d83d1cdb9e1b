"""`streamward train stream`: from a config file to a guard's folder."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from streamward.builtin.adapter import Adapter, load_adapter, save_adapter
from streamward.builtin.base import BASE_NAME, prepare_base
from streamward.errors import ConfigError
from streamward.evals.metrics import Counts
from streamward.model.checkpoint import load_gen
from streamward.model.config import (
    PUBLISHED_PROMPT_CATEGORIES,
    PUBLISHED_RESPONSE_CATEGORIES,
    PUBLISHED_RISK_LEVELS,
    GuardConfig,
    OperatingPoint,
    SideLabels,
)
from streamward.model.guard_model import GuardModel
from streamward.schema import RiskLevel, Side
from streamward.train.calibrate import by_side, count_at, operating_point
from streamward.train.config import StreamTrainConfig
from streamward.train.examples import Example, make_example
from streamward.train.lora import add_lora, merge_lora
from streamward.train.mixture import Row, draw
from streamward.train.scoring import Score, score_examples
from streamward.train.trainer import Trainer, trained_tensors

logger = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """Rows that carry a label, and the same as token ids."""

    rows: list[Row]
    examples: list[Example]


def train(config_path: Path) -> Path:
    """Train, calibrate and write a guard; resumes where an interrupted run stopped.

    Args:
        config_path: A TOML file of `StreamTrainConfig`.

    Returns:
        The guard's folder: `adapter.safetensors`, `config.json` and `report.json`.

    Raises:
        ConfigError: The settings or a source are wrong.
        InputError: A data file cannot be read.
    """
    config = StreamTrainConfig.read(config_path)
    torch.manual_seed(config.seed)
    folder = config.output_root / config.name
    base_folder = prepare_base() if config.base == BASE_NAME else Path(config.base)
    tokenizer = Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # training text is data, as it is when serving
    split = draw(config)
    learnt, held_back = (_encode(tokenizer, rows, config) for rows in split)
    model = new_model(base_folder, config)
    if config.init is not None:
        start_from(config.init, model)
    trainer = Trainer(config, model=model, examples=learnt.examples, folder=folder)
    trainer.run()
    write_guard(folder, model, held_back, config=config, seconds=trainer.seconds, learnt=learnt)
    return folder


def new_model(base_folder: Path, config: StreamTrainConfig) -> GuardModel:
    """Make an untrained guard over the lowest layers of a base, ready for training.

    Raises:
        ConfigError: The base has fewer layers than asked for.
    """
    base = load_gen(base_folder, dtype=torch.bfloat16).decoder
    num_layers = config.num_layers or base.config.num_layers
    if num_layers > base.config.num_layers:
        raise ConfigError(f"num_layers is {num_layers}; the base has {base.config.num_layers}")
    guard_config = GuardConfig(
        inner_size=config.inner_size,
        prompt=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_PROMPT_CATEGORIES),
        response=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_RESPONSE_CATEGORIES),
        window_tokens=config.window_tokens,
    )
    model = GuardModel(dataclasses.replace(base.config, num_layers=num_layers), guard_config)
    wanted = model.decoder.state_dict().keys()
    model.decoder.load_state_dict({name: value for name, value in base.state_dict().items() if name in wanted})
    model.decoder.to(torch.bfloat16)
    add_lora(model.decoder, rank=config.lora.rank, alpha=config.lora.alpha)
    return model


def start_from(folder: Path, model: GuardModel) -> None:
    """Give a model in training the updates and heads of a guard trained before.

    Raises:
        CheckpointError: There is none in the folder.
        ConfigError: It has another shape.
    """
    tensors = load_adapter(folder).tensors
    wanted = trained_tensors(model)
    if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ConfigError(f"the guard in {folder} has other layers, rank or heads than this run")
    model.load_state_dict(tensors, strict=False)


def write_guard(
    folder: Path, model: GuardModel, held_back: Encoded, *, config: StreamTrainConfig, seconds: float, learnt: Encoded
) -> None:
    """Choose the operating points on held-back rows and write the guard with a report."""
    adapter = Adapter(config.base, config.lora.alpha / config.lora.rank, trained_tensors(model))
    merge_lora(model.decoder)
    scores = score_examples(model, held_back.examples)
    ordinary = {index for index, row in enumerate(held_back.rows) if row.file in config.ordinary_sources}
    points: dict[Side, OperatingPoint] = {}
    report: dict[str, Any] = {
        "config": json.loads(config.model_dump_json()),
        "training_seconds": round(seconds),
        "num_rows": len(learnt.rows),
        "num_tokens": sum(len(example.ids) for example in learnt.examples),
        "rows_by_file": _rows_by_file(learnt.rows),
        "held_back": {},
    }
    for side in Side:
        own = by_side(scores, side)
        if not own:
            raise ConfigError(f"no held-back row has a {side.value} label; add a source that has")
        points[side] = operating_point(
            own,
            ordinary=ordinary,
            max_false_positive_rate=config.max_false_positive_rate,
            max_safe_rate=config.max_safe_response_rate if side is Side.RESPONSE else config.max_safe_prompt_rate,
        )
        report["held_back"][side.value] = _side_report(own, points[side], rows=held_back.rows)
    model.guard_config = dataclasses.replace(model.guard_config, operating_points=points)
    save_adapter(folder, adapter, model=model)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _encode(tokenizer: Tokenizer, rows: Sequence[Row], config: StreamTrainConfig) -> Encoded:
    encoded = Encoded([], [])
    for row in rows:
        example = make_example(
            tokenizer,
            row.sample,
            weight=row.weight,
            max_tokens=config.max_tokens,
            unmarked_onset=config.unmarked_onset,
        )
        if example is not None:
            encoded.rows.append(row)
            encoded.examples.append(example)
    return encoded


def _rows_by_file(rows: Sequence[Row]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.file] = counts.get(row.file, 0) + 1
    return counts


def _side_report(scores: Sequence[Score], point: OperatingPoint, *, rows: Sequence[Row]) -> dict[str, Any]:
    by_file: dict[str, list[Score]] = {}
    for score in scores:
        by_file.setdefault(rows[score.example].file, []).append(score)
    return {
        "operating_point": {"unsafe": point.unsafe, "controversial": point.controversial},
        "all": _figures(count_at(scores, point.controversial), scores),
        "by_file": {file: _figures(count_at(own, point.controversial), own) for file, own in sorted(by_file.items())},
    }


def _figures(counts: Counts, scores: Sequence[Score]) -> Mapping[str, float]:
    num_safe = sum(score.level is RiskLevel.SAFE for score in scores)
    figures = {"rows": float(len(scores)), "f1": counts.f1}
    if num_safe < len(scores):
        figures["recall"] = counts.recall
    if num_safe:
        figures["false_positive_rate"] = counts.false_positive_rate
    return {name: round(value, 4) for name, value in figures.items()}
