"""`streamward train calibrate`: offsets for a stated rate, written into the guard."""

import json
from pathlib import Path

import pytest
import torch

import streamward
from streamward.bundled.adapter import load_adapter
from streamward.bundled.embedded import prepare_adapter
from streamward.errors import ConfigError
from streamward.model.config_file import read_config
from streamward.model.decoder import Decoder
from streamward.model.guard_config import parse_guard_config
from streamward.schema import RiskLevel, Side
from streamward.train import calibrate
from streamward.train.calibrate import fit_temperature, run
from streamward.train.gen import train as train_gen
from streamward.train.headline import headline
from streamward.train.stream import train
from tests.train.tiny import CALM, RISKY, config


def calibrate_config(workplace: Path, guard: Path, output: Path, **changes: object) -> Path:
    values = {
        "guard": str(guard),
        "output": str(output),
        "data_root": str(workplace),
        "files": ["rows.jsonl"],
        **changes,
    }
    path = workplace / "calibrate.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    return path


@pytest.fixture
def trained(workplace: Path) -> Path:
    return train(config(workplace, "tiny", epochs=4.0))


def test_an_overconfident_guard_gets_a_temperature_above_one() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4000, 3)
    levels = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
    found = fit_temperature(logits * 2, levels, torch.ones(len(levels)))
    assert found == pytest.approx(2.0, rel=0.15)


def test_a_calibrated_adapter_carries_offsets_and_temperature_and_no_thresholds(workplace: Path, trained: Path) -> None:
    output = run(calibrate_config(workplace, trained, workplace / "out"))
    report = json.loads((output / "calibration.json").read_text())
    assert headline(output).startswith(f"prompts: F1 {report['prompt']['strict']['f1']:.3f}")
    assert headline(output).endswith("calibration.json")
    guard_config = parse_guard_config(read_config(output))
    assert not guard_config.operating_points
    assert list(guard_config.risk_offsets[Side.PROMPT]) == list(report["prompt"]["risk_offsets"].values())
    assert report["prompt"]["nll_after"] <= report["prompt"]["nll_before"]
    assert report["prompt"]["strict"]["false_positive_rate"] <= 0.03
    with streamward.load(output) as guard:
        assert guard.moderate(prompt=f"900 {RISKY}").decision.action == "block"
        calm = guard.moderate(prompt=f"901 {CALM}")
        assert calm.decision.action == "allow"
        assert calm.prompt is not None
        assert max(calm.prompt.probabilities, key=calm.prompt.probabilities.__getitem__) is calm.prompt.risk_level


def test_a_checkpoint_in_the_published_layout_is_calibrated_too(workplace: Path, trained: Path) -> None:
    whole = prepare_adapter(trained)
    output = run(calibrate_config(workplace, whole, workplace / "out"))
    assert (output / "tokenizer.json").exists()
    report = json.loads((output / "calibration.json").read_text())
    with streamward.load(whole) as before, streamward.load(output) as after:
        old, new = (guard.moderate(prompt="5 hurt bread").prompt for guard in (before, after))
    assert old is not None
    assert new is not None
    logits = torch.tensor([old.probabilities[level] for level in RiskLevel]).log()
    offsets = torch.tensor([report["prompt"]["risk_offsets"][level] for level in RiskLevel])
    expected = (logits / report["prompt"]["temperature"] + offsets).softmax(dim=0)
    torch.testing.assert_close(
        torch.tensor([new.probabilities[level] for level in RiskLevel]), expected, atol=0.02, rtol=0
    )


def test_an_adapter_says_that_its_weights_are_rounded(
    workplace: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Decoder] = []
    monkeypatch.setattr(calibrate, "fake_quantize_weights", seen.append)  # the tiny guard's sizes do not suit 8 bits
    assert not load_adapter(run(calibrate_config(workplace, trained, workplace / "plain"))).has_rounded_weights
    output = run(calibrate_config(workplace, trained, workplace / "out", rounded_weights=True))
    assert len(seen) == 1
    assert load_adapter(output).has_rounded_weights


def test_weights_that_8_bits_do_not_suit_are_not_rounded(workplace: Path, trained: Path) -> None:
    with pytest.raises(ConfigError, match="multiples of 64"):
        run(calibrate_config(workplace, trained, workplace / "out", rounded_weights=True))
    assert not (workplace / "out").exists()


def test_a_guard_is_calibrated_in_place(workplace: Path, trained: Path) -> None:
    assert run(calibrate_config(workplace, trained, trained)) == trained
    assert (trained / "calibration.json").exists()


def test_a_gen_guard_is_refused(workplace: Path) -> None:
    folder = train_gen(config(workplace, "gen", without=("inner_size", "head_lr"), epochs=0.1))
    with pytest.raises(ConfigError, match="is a Gen guard"):
        run(calibrate_config(workplace, folder, workplace / "out"))
