"""`streamward train gen`: from a config file to a Gen guard's folder."""

# A trainer of our own rather than TRL's: the loss is on a dozen tokens a row, a row's prompt is read once for both
# judgements, and the base's decoder, its low-rank updates and the resumable loop are those of `train stream`.

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

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
from streamward.train.held_out_figures import encode_rows, figures, side_figures
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
from streamward.train.operating_point import by_side
from streamward.train.parallel import World
from streamward.train.refusals import with_refusal
from streamward.train.stream import REPORT_FILE
from streamward.train.trainer import pick_device, train_task

_EVEN = 0.5  # the threshold of the report: the more probable side of Safe and not Safe


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

    def example(row: WeightedSample) -> GenExample | None:
        return make_gen_example(tokenizer, row.sample, writer=writer, weight=row.weight, max_tokens=config.max_tokens)

    train_set, held_out = (encode_rows(rows, example) for rows in split)
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
            "held_out": {side.value: side_figures(by_side(scores, side), _EVEN, rows=held_out.rows) for side in Side},
            "held_out_refusals": _refusals(model.to("cpu"), tokenizer, held_out.rows, config=config),
        }
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    world.leave()
    return folder


def new_model(folder: Path, config: GenTrainConfig) -> CausalLM:
    """Make an untrained guard over the lowest layers of a base, ready for training.

    Raises:
        ConfigError: The base has fewer layers than asked for, or `init` is not an adapter of this shape.
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
    return {"rows": len(asked), **figures(counts)}
