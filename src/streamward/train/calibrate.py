"""`streamward train calibrate`: a temperature and offsets of the risk logits for a finished Stream guard."""

# Shapes: N rows or tokens; R risk levels.

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import AliasChoices, Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from streamward.bundled.adapter import ADAPTER_FILE
from streamward.data.jsonl import Sample
from streamward.errors import ConfigError
from streamward.loading import find_checkpoint
from streamward.model.checkpoint import load_stream, save_checkpoint
from streamward.model.config_file import read_config
from streamward.model.guard_config import guard_config_keys
from streamward.model.guard_model import GuardModel
from streamward.policy import RESPONSE_CONSECUTIVE_TOKENS
from streamward.schema import RiskLevel, Side
from streamward.settings import Settings
from streamward.tokenizer import GuardTokenizer
from streamward.train.config import TomlSettings, data_path
from streamward.train.examples import Example, make_example
from streamward.train.fake_quantization import fake_quantize_weights
from streamward.train.held_out_figures import figures
from streamward.train.initialization import copy_tokenizer_files, guard_source, is_adapter, is_stream_folder
from streamward.train.mixture import held_out_rows
from streamward.train.operating_point import Aim
from streamward.train.risk_offsets import Caps, ModeTarget, find_offsets
from streamward.train.scoring import RowLogits, row_logits

REPORT_FILE = "calibration.json"
_TEMPERATURES = tuple(2 ** (step / 10) for step in range(-30, 31))  # 1/8 to 8


class ModeConfig(Settings):
    """Permitted false-positive rates of one mode (strict or loose)."""

    max_false_positive_rate: float = Field(default=0.03, gt=0, lt=1)
    """Share of ordinary traffic that may be flagged; of all safe rows where no file is ordinary."""
    max_benign_response_rate: float | None = Field(default=None, gt=0, lt=1)
    """The same for responses, where a false alarm cuts an answer short; by default as for prompts."""
    max_safe_prompt_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of all safe prompts that may be flagged, look-alikes of harmful ones among them."""
    max_safe_response_rate: float = Field(default=1.0, gt=0, le=1)
    aim: Aim = "f1"
    """Quantity to maximise within the rates: F1 on these rows, or recall, which misses less of harm that looks unlike
    them."""


class CalibrateConfig(TomlSettings):
    """`streamward train calibrate`."""

    guard: str
    """A Stream guard: embedded, or the folder of an adapter or of a checkpoint in the published layout."""
    output: Path
    """Folder of the calibrated guard; may be the guard's own."""
    data_root: Path
    files: tuple[str, ...] = Field(min_length=1)
    """Labelled rows the guard has not learnt from: below `data_root`, or the working directory with `./`."""
    held_out_fraction: float | None = Field(
        default=None, gt=0, lt=1, validation_alias=AliasChoices("held_out_fraction", "held_back_fraction")
    )
    """Only the rows of the files that a training run of this `validation_fraction` holds back; all by default."""
    benign_traffic_files: tuple[str, ...] = Field(
        default=(), validation_alias=AliasChoices("benign_traffic_files", "ordinary_files")
    )
    """The ones among the files that contain ordinary traffic."""
    strict: ModeConfig = ModeConfig()
    """Controversial counts as unsafe: limits what gets a level other than Safe."""
    loose: ModeConfig = ModeConfig(max_false_positive_rate=0.01)
    """Controversial counts as safe: limits what gets the level Unsafe."""
    has_temperature: bool = True
    """If true, a temperature is fitted for each side; it is folded into the weights of the risk heads."""
    max_tokens: int = Field(default=1024, gt=8)
    rounded_weights: bool = False
    """If true, the weights are rounded first, so that 8 bits serve the same guard as 16 (docs/explanation/speed.md)."""


class Sides(NamedTuple):
    """Result of the calibration of each side."""

    temperatures: dict[Side, float]
    report: dict[str, Any]


def run(config_path: Path) -> Path:
    """Calibrate a guard and write it; returns its folder.

    Raises:
        ConfigError: The guard is a Gen guard, or no row says anything about it.
        InputError: A data file cannot be read.
        CheckpointError: The guard is missing or damaged.
    """
    config = CalibrateConfig.read(config_path)
    source, folder = guard_source(config.guard), find_checkpoint(config.guard)
    if not is_stream_folder(folder):
        raise ConfigError(f"{config.guard} is a Gen guard; only Stream guards have operating points")
    model, tokenizer = load_stream(folder, dtype=torch.bfloat16), GuardTokenizer.from_folder(folder)
    if config.rounded_weights:
        fake_quantize_weights(model.decoder)
    for heads in (model.prompt_heads, model.response_heads):
        heads.float()
    samples, files = _read(config)
    examples, kept = [], []
    for sample, file in zip(samples, files, strict=True):
        example = make_example(tokenizer, sample, weight=1.0, max_tokens=config.max_tokens)
        if example is not None:
            examples.append(example)
            kept.append(file)
    found = calibrate(model, examples, kept, config=config)
    _write(config, model, found, source=source, whole=folder)
    (config.output / REPORT_FILE).write_text(json.dumps(found.report, indent=2) + "\n", encoding="utf-8")
    return config.output


def calibrate(
    model: GuardModel, examples: Sequence[Example], files: Sequence[str], *, config: CalibrateConfig
) -> Sides:
    """Fit temperatures and offsets, and fold both into the model's heads.

    Args:
        model: Changed in place.
        examples: Held-out rows.
        files: Where each comes from.
        config: Rates allowed.

    Raises:
        ConfigError: No row has a label, or no offsets keep the rates.
    """
    found = Sides({}, {"config": json.loads(config.model_dump_json())})
    for side in Side:
        model.heads(side).risk_offset_R = None
    rows = row_logits(model, examples)
    for side in Side:
        own = [row for row in rows if row.side is side]
        if not own:
            continue
        logits_NR = torch.cat([row.logits_nR for row in own])
        levels_N, weights_N = torch.cat([row.levels_n for row in own]), torch.cat([row.weights_n for row in own])
        temperature = fit_temperature(logits_NR, levels_N, weights_N) if config.has_temperature else 1.0
        with torch.no_grad():
            model.get_parameter(f"{side.value}_heads.risk.weight").div_(temperature)
        found.temperatures[side] = temperature
        found.report[side.value] = {
            "temperature": round(temperature, 4),
            "nll_before": _nll(logits_NR, levels_N, weights_N),
            "nll_after": _nll(logits_NR / temperature, levels_N, weights_N),
        }
        scaled = [row._replace(logits_nR=row.logits_nR / temperature) for row in own]
        offsets, figures = _calibrated(scaled, files, model, config=config, side=side)
        model.set_risk_offsets(side, offsets)
        found.report[side.value] |= figures
    if not found.temperatures:
        raise ConfigError("no row of the files has a label")
    return found


def fit_temperature(logits_NR: Tensor, levels_N: Tensor, weights_N: Tensor) -> float:
    """Return the temperature with the least negative log likelihood (Guo et al., arXiv 1706.04599)."""
    return min(_TEMPERATURES, key=lambda each: _nll(logits_NR / each, levels_N, weights_N))


def _calibrated(
    rows: Sequence[RowLogits], files: Sequence[str], model: GuardModel, *, config: CalibrateConfig, side: Side
) -> tuple[tuple[float, ...], dict[str, Any]]:
    safe_N = torch.tensor([row.level is RiskLevel.SAFE for row in rows])
    unsafe_N = torch.tensor([row.level is RiskLevel.UNSAFE for row in rows])
    benign_N = torch.tensor([files[row.example] in config.benign_traffic_files for row in rows]) & safe_N

    def target(mode: ModeConfig, positive_N: Tensor) -> ModeTarget:
        benign_rate, safe_rate = mode.max_false_positive_rate, mode.max_safe_prompt_rate
        if side is Side.RESPONSE:
            benign_rate, safe_rate = mode.max_benign_response_rate or benign_rate, mode.max_safe_response_rate
        capped_N = benign_N if bool(benign_N.any()) else safe_N
        return ModeTarget(positive_N, [Caps(capped_N, benign_rate), Caps(safe_N, safe_rate)], mode.aim)

    labels = model.guard_config.labels(side)
    run = RESPONSE_CONSECUTIVE_TOKENS if side is Side.RESPONSE else 1
    found = find_offsets(
        rows, labels, run=run, strict=target(config.strict, ~safe_N), loose=target(config.loose, unsafe_N)
    )
    if found is None:
        raise ConfigError(f"no offsets of the {side.value} heads keep the rates; allow more false positives")
    return found.offsets, {
        "rows": len(rows),
        "risk_offsets": dict(zip((level.value for level in labels.risk_levels), found.offsets, strict=True)),
        "benign_traffic_flagged": round(float(found.strict_N[benign_N].float().mean().nan_to_num()), 4),
        "strict": figures(found.strict),
        "loose": figures(found.loose),
    }


def _read(config: CalibrateConfig) -> tuple[list[Sample], list[str]]:
    samples, files = [], []
    for file in config.files:
        own = held_out_rows(data_path(file, config.data_root), held_out_fraction=config.held_out_fraction)
        samples += own
        files += [file] * len(own)
    return samples, files


def _nll(logits_NR: Tensor, levels_N: Tensor, weights_N: Tensor) -> float:
    losses_N = F.cross_entropy(logits_NR, levels_N, reduction="none")
    return round(float((losses_N * weights_N).sum() / weights_N.sum()), 5)


def _write(config: CalibrateConfig, model: GuardModel, found: Sides, *, source: Path, whole: Path) -> None:
    """Write the guard in the form it came in."""
    output = config.output
    copy_tokenizer_files(source, output)
    if not is_adapter(source):
        save_checkpoint(model.to(torch.bfloat16), output)
        copy_tokenizer_files(whole, output)
        return
    tensors = load_file(source / ADAPTER_FILE)
    for side, temperature in found.temperatures.items():
        tensors[f"{side.value}_heads.risk.weight"] = tensors[f"{side.value}_heads.risk.weight"] / temperature
    keys = read_config(source)
    own = {key: value for key, value in keys["streamward"].items() if key not in ("operating_points", "risk_offsets")}
    keys["streamward"] = {**own, **guard_config_keys(model.guard_config)["streamward"]}
    if config.rounded_weights:
        keys["streamward"]["rounded_weights"] = True
    save_file(tensors, output / ADAPTER_FILE)
    (output / "config.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")
