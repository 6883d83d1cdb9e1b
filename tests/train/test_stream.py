"""`streamward train stream` from data files to a guard that loads and judges."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import streamward
from streamward.data.jsonl import parse_row
from streamward.errors import CheckpointError, ConfigError
from streamward.schema import RiskLevel, Side
from streamward.train.config import StreamTrainConfig
from streamward.train.headline import headline
from streamward.train.mixture import WeightedSample
from streamward.train.stream import row_example, train
from tests.train.tiny import CALM, RISKY, config, guard_tokenizer, row


def test_a_run_ends_in_a_guard_that_has_learnt(workplace: Path) -> None:
    folder = train(config(workplace, "tiny"))
    report = json.loads((folder / "report.json").read_text())
    assert report["held_out"]["prompt"]["all"]["f1"] > 0.9
    assert headline(folder).startswith("prompts: F1 ")
    with streamward.load(folder) as guard:
        assert guard.moderate(prompt=f"500 {RISKY}").decision.action == "block"
        assert guard.moderate(prompt=f"501 {CALM}").decision.action == "allow"


def test_a_finished_run_is_not_run_again(workplace: Path) -> None:
    path = config(workplace, "tiny")
    first = (train(path) / "adapter.safetensors").read_bytes()
    assert (train(path) / "adapter.safetensors").read_bytes() == first


def test_a_second_stage_starts_from_the_first(workplace: Path) -> None:
    first = train(config(workplace, "first"))
    second = train(config(workplace, "second", init=str(first), lr=1e-9, head_lr=1e-9, epochs=0.2))
    with streamward.load(first) as before, streamward.load(second) as after:
        for prompt in (RISKY, CALM):
            old, new = (guard.moderate(prompt=prompt).prompt for guard in (before, after))
            assert old is not None
            assert new is not None
            assert dict(new.probabilities) == pytest.approx(dict(old.probabilities), abs=0.02)


def test_a_stage_of_another_shape_is_refused(workplace: Path) -> None:
    first = train(config(workplace, "first", epochs=0.1))
    with pytest.raises(ConfigError, match="fewer layers, or another rank or heads"):
        train(config(workplace, "second", init=str(first), num_layers=2))
    with pytest.raises(CheckpointError, match="there is no guard"):
        train(config(workplace, "third", init=str(workplace / "nowhere")))


def test_a_smaller_guard_starts_from_the_lowest_layers_of_a_larger_one(workplace: Path) -> None:
    large = train(config(workplace, "large", num_layers=2, epochs=0.2))
    small = train(config(workplace, "small", init=str(large), lr=1e-9, head_lr=1e-9, epochs=0.1))
    before, after = (load_file(folder / "adapter.safetensors") for folder in (large, small))
    assert {name for name in before.keys() - after.keys() if "layers.1." not in name} == set()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name], atol=1e-3, rtol=0)


def test_more_layers_than_the_base_has_are_refused(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="the base has 2"):
        train(config(workplace, "deep", num_layers=3))


def test_every_term_of_the_loss_can_be_switched_on(workplace: Path) -> None:
    options: dict[str, Any] = {"alarm_weight": 0.5, "monotonicity_loss_weight": 0.2}
    folder = train(config(workplace, "tiny", max_tokens=40, epochs=1.0, unmarked_onset="ramp", **options))
    report = json.loads((folder / "report.json").read_text())
    assert report["config"]["monotonicity_loss_weight"] == 0.2
    assert report["config"]["worst_token_loss_weight"] == 0.5


def test_marks_can_be_left_aside(workplace: Path) -> None:
    settings = StreamTrainConfig.read(config(workplace, "tiny"))
    sample = parse_row({**row(0), "response": "ab", "unsafe_start": 1}, source="made")
    labelled = WeightedSample(sample, 1.0, "rows.jsonl")
    levels = []
    for uses_marks in (True, False):
        example = row_example(guard_tokenizer(), settings.model_copy(update={"uses_marks": uses_marks}), labelled)
        assert example is not None
        levels.append([each.level for each in example.targets if each.side is Side.RESPONSE])
    assert levels == [[RiskLevel.SAFE, RiskLevel.UNSAFE], [RiskLevel.UNSAFE, RiskLevel.UNSAFE]]


def test_a_gpu_that_is_not_there_is_an_error(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU"):
        train(config(workplace, "tiny", device="cuda"))
