"""Heads in the layout of the native kernels."""

import pytest
import torch
from streamward.model.native.library import kernels
from streamward.model.native_heads import NativeHeads

from streamward.model.guard_config import SideLabels
from streamward.model.heads import SideHeads
from streamward.model.packing import pack_linears
from streamward.schema import Category, RiskLevel


@pytest.fixture
def heads() -> SideHeads:
    torch.manual_seed(0)
    labels = SideLabels(risk_levels=tuple(RiskLevel), categories=tuple(Category))
    return SideHeads(labels, hidden_size=128, inner_size=64, eps=1e-6).bfloat16()


@pytest.mark.skipif(kernels() is None, reason="this CPU has no native kernels")
@torch.inference_mode()
def test_packed_heads_say_what_plain_ones_say_and_the_same_bits_for_any_number_of_tokens(heads):
    hidden_TD = torch.randn(70, 128).bfloat16()
    plain = heads(hidden_TD)
    guard = torch.nn.ModuleDict({"heads": heads})
    pack_linears(guard)
    native = guard["heads"]
    assert isinstance(native, NativeHeads)
    packed = native(hidden_TD)
    for before, after in zip(plain, packed, strict=True):
        assert after.shape == before.shape
        torch.testing.assert_close(after, before, atol=0.02, rtol=0.02)
    for first, end in [(0, 1), (1, 3), (3, 70)]:
        part = native(hidden_TD[first:end])
        assert torch.equal(part.risk_TR, packed.risk_TR[first:end])
        assert torch.equal(part.category_TC, packed.category_TC[first:end])
