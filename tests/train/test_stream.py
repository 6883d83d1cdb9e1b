"""`streamward train stream` from data files to a guard that loads and judges."""

import json
from pathlib import Path

import pytest
import torch

import streamward
from streamward.errors import CheckpointError, ConfigError
from streamward.model.checkpoint import save_checkpoint
from streamward.model.guard_model import CausalLM
from streamward.train.stream import train
from tests.train.tiny import MODEL_CONFIG, byte_tokenizer

RISKY, CALM = "hurt them", "bake bread"


def row(index: int) -> dict[str, object]:
    is_risky = index % 2 == 0
    label = "Unsafe" if is_risky else "Safe"
    words = RISKY if is_risky else CALM
    return {
        "id": str(index),
        "lang": "en",
        "prompt": f"{index} {words}",
        "response": f"{words} {index}",
        "prompt_label": label,
        "response_label": label,
        "categories": ["Violent"] if is_risky else [],
    }


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny base, data and a cache of their own."""
    monkeypatch.setenv("STREAMWARD_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_checkpoint(CausalLM(MODEL_CONFIG).to(torch.bfloat16), tmp_path / "base")
    byte_tokenizer().save(str(tmp_path / "base" / "tokenizer.json"))
    lines = [json.dumps(row(index)) for index in range(120)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def config(workplace: Path, name: str, **changes: object) -> Path:
    values = {
        "name": name,
        "base": str(workplace / "base"),
        "num_layers": 1,
        "inner_size": 16,
        "data_root": str(workplace),
        "output_root": str(workplace / "runs"),
        "batch_tokens": 512,
        "epochs": 6.0,
        "lr": 0.01,
        "head_lr": 0.02,
        "warmup_steps": 2,
        "validation_fraction": 0.2,
        **changes,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = workplace / f"{name}.toml"
    path.write_text("\n".join([*lines, "[lora]", "rank = 4", "alpha = 8.0", "[[sources]]", 'file = "rows.jsonl"', ""]))
    return path


def test_a_run_ends_in_a_guard_that_has_learnt(workplace: Path) -> None:
    folder = train(config(workplace, "tiny"))
    report = json.loads((folder / "report.json").read_text())
    assert report["held_back"]["prompt"]["all"]["f1"] > 0.9
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
    with pytest.raises(ConfigError, match="other layers, rank or heads"):
        train(config(workplace, "second", init=str(first), num_layers=2))
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        train(config(workplace, "third", init=str(workplace / "nowhere")))


def test_more_layers_than_the_base_has_are_refused(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="the base has 2"):
        train(config(workplace, "deep", num_layers=3))
