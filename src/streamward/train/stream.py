"""`streamward train stream`: from a config file to a guard's folder."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from streamward.bundled.adapter import save_adapter
from streamward.errors import ConfigError
from streamward.model.checkpoint import load_stream, save_checkpoint
from streamward.model.config_file import read_config
from streamward.model.guard_config import (
    PUBLISHED_PROMPT_CATEGORIES,
    PUBLISHED_RESPONSE_CATEGORIES,
    PUBLISHED_RISK_LEVELS,
    GuardConfig,
    OperatingPoint,
    SideLabels,
    parse_guard_config,
)
from streamward.model.guard_model import GuardModel
from streamward.schema import Side
from streamward.tokenizer import GuardTokenizer
from streamward.train.config import StreamTrainConfig
from streamward.train.cue_audit import check_mixture
from streamward.train.examples import Example, make_example
from streamward.train.held_out_figures import EncodedRows, encode_rows, side_figures
from streamward.train.initialization import (
    base_decoder,
    base_folder,
    copy_layers,
    copy_tokenizer_files,
    init_folder,
    is_adapter,
    model_shape,
    new_adapter,
    run_tokenizer,
    shaped_as_init,
    start_from,
)
from streamward.train.lora import add_lora, merge_lora
from streamward.train.mixture import WeightedSample, draw
from streamward.train.operating_point import by_side, operating_point
from streamward.train.parallel import World
from streamward.train.scoring import Score, score_examples
from streamward.train.stream_task import StreamTask
from streamward.train.trainer import pick_device, train_task

REPORT_FILE = "report.json"


class Start(NamedTuple):
    """The start of a run.

    Attributes:
        whole: Folder of the checkpoint it fine-tunes; None if it makes an adapter.
        points: Operating points of the guard it goes on from.
    """

    model: GuardModel
    tokenizer: GuardTokenizer
    whole: Path | None
    points: Mapping[Side, OperatingPoint]


def train(config_path: Path) -> Path:
    """Train, calibrate and write a guard; resumes where an interrupted run stopped.

    Args:
        config_path: A TOML file of `StreamTrainConfig`.

    Returns:
        The guard's folder: `adapter.safetensors`, `config.json` and `report.json`; a whole checkpoint if the run starts
        from one.

    Raises:
        ConfigError: The settings or a source are wrong.
        InputError: A data file cannot be read.
    """
    return train_stream(StreamTrainConfig.read(config_path))


def train_stream(config: StreamTrainConfig) -> Path:
    """Do the run a config states; see `train`."""
    config = shaped_as_init(config)
    torch.manual_seed(config.seed)
    folder, device, world = config.output_root / config.name, pick_device(config), World()
    world.join(device)
    start = begin(config)
    split = draw(config)
    check_mixture((row.sample for row in split.train), config.cues)
    train_set, held_out = (encode_rows(rows, partial(row_example, start.tokenizer, config)) for rows in split)
    start.model.to(device)
    task = StreamTask(config, start.model, train_set.examples, device)
    took = train_task(config, task, decoder=start.model.decoder, folder=folder, world=world)
    if world.is_main_process:
        write_guard(folder, start, held_out, config=config, took=took, train_set=train_set)
    world.leave()
    return folder


def begin(config: StreamTrainConfig) -> Start:
    """Make the guard to be trained: new heads over a base, or a guard trained before.

    Raises:
        ConfigError: The base has fewer layers than asked for, or the guard to start from another shape.
        CheckpointError: Base or guard are missing or damaged.
    """
    init = init_folder(config)
    if init is not None and not is_adapter(init):
        model = load_stream(init, dtype=torch.bfloat16)
        for heads in (model.prompt_heads, model.response_heads):
            heads.float().requires_grad_(True)
        add_lora(model.decoder, rank=config.lora.rank, alpha=config.lora.alpha)
        return Start(model, GuardTokenizer.from_folder(init), init, model.guard_config.operating_points)
    source = base_folder(config)
    model = new_model(source, config)
    points: Mapping[Side, OperatingPoint] = {}
    if init is not None:
        start_from(init, model)
        points = parse_guard_config(read_config(init)).operating_points
    return Start(model, run_tokenizer(source, is_gen=False), None, points)


def new_model(folder: Path, config: StreamTrainConfig) -> GuardModel:
    """Make an untrained guard over the lowest layers of a base, ready for training.

    Raises:
        ConfigError: The base has fewer layers than asked for.
    """
    base = base_decoder(folder)
    guard_config = GuardConfig(
        inner_size=config.inner_size,
        prompt=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_PROMPT_CATEGORIES),
        response=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_RESPONSE_CATEGORIES),
        window_tokens=config.window_tokens,
    )
    model = GuardModel(model_shape(config, base.config), guard_config)
    copy_layers(base, model.decoder)
    add_lora(model.decoder, rank=config.lora.rank, alpha=config.lora.alpha)
    return model


def write_guard(
    folder: Path,
    start: Start,
    held_out: EncodedRows[Example],
    *,
    config: StreamTrainConfig,
    took: Mapping[str, int],
    train_set: EncodedRows[Example],
) -> None:
    """Choose the operating points on held-out rows and write the guard with a report."""
    model = start.model
    adapter = new_adapter(config, model)
    merge_lora(model.decoder)
    scores = score_examples(model, held_out.examples)
    report: dict[str, Any] = {  # Any: JSON values
        "config": json.loads(config.model_dump_json()),
        **took,
        "num_rows": len(train_set.rows),
        "num_tokens": sum(len(example.ids) for example in train_set.examples),
        "rows_by_file": Counter(row.file for row in train_set.rows),
        "held_out": {},
    }
    points: dict[Side, OperatingPoint] = {}
    for side in Side:
        own = by_side(scores, side)
        if side in start.points and len(own) < max(1, config.min_calibration_rows):
            points[side] = start.points[side]
        elif own:
            points[side] = _point(own, held_out.rows, config, side=side)
        elif start.whole is None:
            raise ConfigError(f"no held-out row has a {side.value} label; add a source that has")
        if own and side in points:
            report["held_out"][side.value] = {
                "operating_point": {"unsafe": points[side].unsafe, "controversial": points[side].controversial},
                **side_figures(own, points[side].controversial, rows=held_out.rows),
            }
    model.guard_config = dataclasses.replace(model.guard_config, operating_points=points)
    if start.whole is None:
        save_adapter(folder, adapter, model_config=model.decoder.config, guard_config=model.guard_config)
    else:
        save_checkpoint(model.to(torch.bfloat16), folder)
        copy_tokenizer_files(start.whole, folder)
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def row_example(tokenizer: GuardTokenizer, config: StreamTrainConfig, row: WeightedSample) -> Example | None:
    """Return a row as token ids with targets, as the settings want it; None if it has no label."""
    sample = row.sample if config.uses_marks else dataclasses.replace(row.sample, unsafe_start=None, spans=None)
    return make_example(
        tokenizer,
        sample,
        weight=row.weight,
        max_tokens=config.max_tokens,
        unmarked_onset=config.unmarked_onset,
        safe_weight=config.safe_weight,
    )


def _point(
    scores: Sequence[Score], rows: Sequence[WeightedSample], config: StreamTrainConfig, *, side: Side
) -> OperatingPoint:
    return operating_point(
        scores,
        ordinary={index for index, row in enumerate(rows) if row.file in config.benign_traffic_sources},
        max_false_positive_rate=config.max_false_positive_rate,
        max_safe_rate=config.max_safe_response_rate if side is Side.RESPONSE else config.max_safe_prompt_rate,
    )
