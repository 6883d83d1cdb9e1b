"""`streamward train gen`: from a config file to a Gen guard's folder."""

# A trainer of our own rather than TRL's: the loss is on a dozen tokens a row, a row's prompt is read once for both
# judgements, and the base's decoder, its low-rank updates and the resumable loop are those of `train stream`.

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from streamward.bundled.adapter import save_adapter
from streamward.errors import ConfigError
from streamward.evals.metrics import count
from streamward.generative.local import LocalGenGuard
from streamward.generative.torch_lm import TorchLanguageModel
from streamward.model.checkpoint import load_gen
from streamward.model.guard_model import CausalLM
from streamward.model.packing import pack_linears
from streamward.schema import Message, Role, Side
from streamward.tokenizer import GuardTokenizer, clean_text
from streamward.train.config import GenTrainConfig
from streamward.train.cue_audit import check_mixture
from streamward.train.gen_examples import AnswerWriter, GenExample, RefusalWeights, make_gen_example
from streamward.train.gen_task import GenTask, score_answers
from streamward.train.initialization import (
    base_folder,
    copy_layers,
    init_folder,
    is_adapter,
    model_shape,
    new_adapter,
    run_tokenizer,
    shaped_as_init,
    start_from,
)
from streamward.train.lora import add_lora, merge_lora
from streamward.train.mixture import Split, WeightedSample, draw
from streamward.train.operating_point import by_side, count_at
from streamward.train.parallel import World
from streamward.train.refusals import with_refusal
from streamward.train.scoring import Score
from streamward.train.stream import REPORT_FILE
from streamward.train.trainer import pick_device, train_task

_EVEN = 0.5  # the threshold of the report: the more probable side of Safe and not Safe


class EncodedGenRows(NamedTuple):
    """Rows that carry a label, and the same as trees."""

    rows: list[WeightedSample]
    examples: list[GenExample]


def train(config_path: Path) -> Path:
    """Train and write a Gen guard; resumes where an interrupted run stopped.

    Args:
        config_path: A TOML file of `GenTrainConfig`.

    Returns:
        The guard's folder: `adapter.safetensors`, `config.json` and `report.json`.

    Raises:
        ConfigError: The settings or a source are wrong.
        InputError: A data file cannot be read.
    """
    return train_gen(GenTrainConfig.read(config_path))


def train_gen(config: GenTrainConfig) -> Path:
    """Do the run a config states; see `train`."""
    config = shaped_as_init(config)
    torch.manual_seed(config.seed)
    folder, device, world = config.output_root / config.name, pick_device(config), World()
    world.join(device)
    source = base_folder(config)
    tokenizer = run_tokenizer(source, is_gen=True)
    split = _drawn(config)
    refusals = RefusalWeights.balanced([row.sample for row in split.train])
    writer = AnswerWriter(tokenizer, config, refusals=refusals)
    train_set, held_out = (_encode(tokenizer, rows, writer=writer, config=config) for rows in split)
    model = new_model(source, config).to(device)
    task = GenTask(config, model, train_set.examples, device)
    took = train_task(config, task, decoder=model.decoder, folder=folder, world=world)
    if world.is_main_process:
        adapter = new_adapter(config, model)
        merge_lora(model.decoder)
        scores = score_answers(model, held_out.examples, writer.level_tokens)
        save_adapter(folder, adapter, model_config=model.decoder.config)
        report = {
            "config": json.loads(config.model_dump_json()),
            **took,
            "num_rows": len(train_set.rows),
            "num_tokens": sum(task.lengths),
            "refusal_weights": dataclasses.asdict(refusals),
            "held_out": _report(scores, held_out.rows),
            "held_out_refusals": _refusals(model.to("cpu"), tokenizer, held_out.rows, config=config),
        }
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    world.leave()
    return folder


def new_model(folder: Path, config: GenTrainConfig) -> CausalLM:
    """Make an untrained guard over the lowest layers of a base, ready for training.

    Raises:
        ConfigError: The base has fewer layers than asked for, or `init` is no adapter of this shape.
    """
    base = load_gen(folder, dtype=torch.bfloat16)
    shape = model_shape(config, base.decoder.config)
    model = CausalLM(dataclasses.replace(shape, max_positions=min(shape.max_positions, config.window_tokens)))
    copy_layers(base.decoder, model.decoder)
    model.lm_head.load_state_dict(base.lm_head.state_dict())
    model.to(torch.bfloat16).requires_grad_(False)
    add_lora(model.decoder, rank=config.lora.rank, alpha=config.lora.alpha)
    init = init_folder(config)
    if init is not None and not is_adapter(init):
        raise ConfigError(f"init: {init} is a whole checkpoint; name it as base instead")
    if init is not None:
        start_from(init, model, only_updates=True)
    return model


def _drawn(config: GenTrainConfig) -> Split:
    """Draw the rows, with refusals read off the wording where the settings want it."""
    split = draw(config)
    check_mixture((row.sample for row in split.train), config.cues)
    if not config.refusals_by_wording:
        return split
    return Split(*([row._replace(sample=with_refusal(row.sample)) for row in rows] for rows in split))


def _encode(
    tokenizer: GuardTokenizer, rows: Sequence[WeightedSample], *, writer: AnswerWriter, config: GenTrainConfig
) -> EncodedGenRows:
    encoded = EncodedGenRows([], [])
    for row in rows:
        example = make_gen_example(
            tokenizer, row.sample, writer=writer, weight=row.weight, max_tokens=config.max_tokens
        )
        if example is not None:
            encoded.rows.append(row)
            encoded.examples.append(example)
    return encoded


def _report(scores: Sequence[Score], rows: Sequence[WeightedSample]) -> dict[str, Any]:  # Any: JSON values
    report: dict[str, Any] = {}
    for side in Side:
        own = by_side(scores, side)
        by_file: dict[str, list[Score]] = {}
        for score in own:
            by_file.setdefault(rows[score.example].file, []).append(score)
        report[side.value] = {"all": _figures(own)} | {file: _figures(each) for file, each in sorted(by_file.items())}
    return report


def _figures(scores: Sequence[Score]) -> Mapping[str, float]:
    counts = count_at(scores, _EVEN)
    return {
        "rows": len(scores),
        "f1": round(counts.f1, 4),
        "recall": round(counts.recall, 4),
        "false_positive_rate": round(counts.false_positive_rate, 4),
    }


def _refusals(
    model: CausalLM, tokenizer: GuardTokenizer, rows: Sequence[WeightedSample], *, config: GenTrainConfig
) -> Mapping[str, float]:
    """Ask the finished guard, as it is asked when serving, whether held-out responses refuse."""
    known = [row.sample for row in rows if row.sample.refusal is not None and row.sample.response]
    asked = known[: config.max_refusal_checks]
    if not asked:
        return {"rows": 0}
    model.to(torch.bfloat16)
    pack_linears(model)
    guard = LocalGenGuard(TorchLanguageModel(model), tokenizer)
    said, truth = [], []
    for sample in asked:
        turns = [Message(Role.USER, clean_text(sample.prompt)), Message(Role.ASSISTANT, sample.response or "")]
        said.append(bool(guard.judge([*sample.history, *turns]).refusal))
        truth.append(bool(sample.refusal))
    counts = count(said, truth)
    return {"rows": len(asked), "f1": round(counts.f1, 4), "recall": round(counts.recall, 4)}
