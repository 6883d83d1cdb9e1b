"""Offsets of calibration are part of a guard: in its config, its logits and its verdicts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from streamward.errors import CheckpointError
from streamward.model.checkpoint import load_stream, save_checkpoint
from streamward.model.packing import pack_linears
from streamward.schema import Side
from tests.model.checkpoints import stream_checkpoint

OFFSETS = {"Safe": 0.0, "Unsafe": -1.5, "Controversial": 0.25}


def test_offsets_are_added_to_the_risk_logits_of_their_side_only(tmp_path: Path) -> None:
    checkpoint = stream_checkpoint()
    plain = load_stream(checkpoint.write(tmp_path / "plain"), dtype=torch.float32)
    own = {"risk_offsets": {"prompt": OFFSETS}}
    offset = load_stream(checkpoint.with_config(streamward=own).write(tmp_path / "own"), dtype=torch.float32)
    hidden_TD = torch.randn(5, 24)
    difference = offset.heads(Side.PROMPT)(hidden_TD).risk_TR - plain.heads(Side.PROMPT)(hidden_TD).risk_TR
    torch.testing.assert_close(difference, torch.tensor([0.0, -1.5, 0.25]).expand(5, 3))
    for each in ("risk_TR", "category_TC"):
        left, right = (getattr(model.heads(Side.RESPONSE)(hidden_TD), each) for model in (plain, offset))
        assert torch.equal(left, right)


def test_packed_heads_add_them_too(tmp_path: Path) -> None:
    checkpoint = stream_checkpoint(dtype=torch.bfloat16).with_config(streamward={"risk_offsets": {"response": OFFSETS}})
    model = load_stream(checkpoint.write(tmp_path), dtype=torch.bfloat16)
    hidden_TD = torch.randn(4, 24).bfloat16()
    expected = model.heads(Side.RESPONSE)(hidden_TD).risk_TR
    pack_linears(model)
    torch.testing.assert_close(model.heads(Side.RESPONSE)(hidden_TD).risk_TR, expected, atol=0.05, rtol=0)


def test_they_survive_saving(tmp_path: Path) -> None:
    model = load_stream(stream_checkpoint().write(tmp_path / "in"), dtype=torch.float32)
    model.set_risk_offsets(Side.RESPONSE, (0.0, 2.0, -0.5))
    save_checkpoint(model, tmp_path / "out")
    again = load_stream(tmp_path / "out", dtype=torch.float32)
    assert again.guard_config.risk_offsets == {Side.RESPONSE: (0.0, 2.0, -0.5)}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"risk_offsets": {"answer": OFFSETS}}, "risk_offsets has 'answer'; sides are"),
        ({"risk_offsets": {"prompt": {"Safe": 0.0}}}, "needs a number for each of Safe, Unsafe, Controversial"),
        ({"risk_offsets": {"prompt": {**OFFSETS, "Safe": float("nan")}}}, "needs a number for each of"),
        ({"risk_offsets": {"prompt": 3}}, "needs a number for each of"),
        (
            {
                "risk_offsets": {"prompt": OFFSETS},
                "operating_points": {"prompt": {"unsafe": 0.5, "controversial": 0.5}},
            },
            "has operating_points and risk_offsets for prompt; give one",
        ),
    ],
)
def test_offsets_that_cannot_be_meant_are_refused(tmp_path: Path, own: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_stream(stream_checkpoint().with_config(streamward=own).write(tmp_path), dtype=torch.float32)
