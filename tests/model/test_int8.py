"""Weights of 8 bits: close to the full ones, and for each token whatever else is in the batch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from streamward.errors import ConfigError
from streamward.model import packing
from streamward.model.native.library import kernels
from streamward.model.packing import Int8Linear, quantize_linears

library = kernels()
needs_kernels = pytest.mark.skipif(library is None, reason="this machine builds or runs no native kernels")


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def quantized(weight: Tensor) -> Int8Linear:
    assert library is not None
    return Int8Linear(weight, library=library)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@needs_kernels
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 131])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(64, 64), (192, 576), (128, 1536)])
def test_products_stay_within_a_hundredth(rows: int, num_outputs: int, num_inputs: int) -> None:
    weight, x = randn(num_outputs, num_inputs), randn(rows, num_inputs, seed=2)
    assert relative_error(quantized(weight)(x), x.double() @ weight.double().T) < 0.015


@needs_kernels
def test_a_token_is_scaled_by_itself_so_that_the_batch_changes_no_bit() -> None:
    linear, x = quantized(randn(128, 256)), randn(70, 256, seed=2)
    x[3] *= 1000
    together = linear(x)
    assert torch.equal(together, torch.cat([linear(row[None]) for row in x]))


@needs_kernels
def test_one_huge_activation_spoils_only_its_neighbours() -> None:
    """SmolLM2 has inputs of 2826 at position 0, where the median is 1.3."""
    weight, x = randn(128, 1024), randn(1, 1024, seed=2)
    x[0, 700] = 3000
    weight[:, 640:704] = 0  # the group of the huge one: what is left must be as exact as without it
    assert relative_error(quantized(weight)(x), x.double() @ weight.double().T) < 0.015


@needs_kernels
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(bad: float) -> None:
    x = randn(2, 128)
    x[1, 70] = bad
    out = quantized(randn(64, 128))(x)
    assert out[0].isfinite().all()
    assert not out[1].isfinite().any()


@needs_kernels
def test_zeros_stay_zero() -> None:
    weight = randn(64, 128)
    weight[5] = 0
    linear = quantized(weight)
    assert not linear(torch.zeros(2, 128, dtype=torch.bfloat16)).any()
    assert not linear(randn(2, 128))[:, 5].any()


@needs_kernels
def test_shapes_that_do_not_fit_are_refused_in_words() -> None:
    decoder = nn.Sequential(nn.Linear(64, 100, bias=False).bfloat16())
    with pytest.raises(ConfigError, match=r"multiples of 64.*\[100, 64\]; set weights to full"):
        quantize_linears(decoder)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(packing, "kernels", lambda: None)
    yield


def test_without_kernels_they_are_refused_in_words(no_kernels: None) -> None:
    with pytest.raises(ConfigError, match="set weights to full"):
        quantize_linears(nn.Sequential(nn.Linear(64, 64, bias=False)))
