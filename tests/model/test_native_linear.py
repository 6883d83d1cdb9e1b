"""Linear layers of the native kernels: as exact as their weights, and for each token whatever else is in the batch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from streamward.errors import ConfigError
from streamward.model import packing
from streamward.model.config import ModelConfig
from streamward.model.decoder import Decoder
from streamward.model.native.library import kernels
from streamward.model.native_linear import NativeLinear
from streamward.model.packing import quantize_linears

library = kernels()
needs_kernels = pytest.mark.skipif(library is None, reason="this machine builds or runs no native kernels")
both = pytest.mark.parametrize("is_int8", [False, True], ids=["bfloat16", "int8"])
ERRORS = {False: 1e-6, True: 0.012}


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def packed(weight: Tensor, is_int8: bool, *, is_gated: bool = False) -> NativeLinear:
    assert library is not None
    return NativeLinear(weight, library=library, is_int8=is_int8, is_gated=is_gated)


def small_decoder(*, hidden_size: int, num_layers: int = 1) -> Decoder:
    """Two heads."""
    config = ModelConfig(
        vocab_size=50,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=2,
        num_kv_heads=1,
        head_dim=64,
        intermediate_size=128,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        max_positions=40,
        has_tied_embeddings=True,
        has_qk_norm=False,
    )
    torch.manual_seed(3)
    return Decoder(config).bfloat16()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@needs_kernels
@both
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 15, 64, 131])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(64, 64), (192, 576), (128, 1536)])
def test_products_are_as_exact_as_the_weights(is_int8: bool, rows: int, num_outputs: int, num_inputs: int) -> None:
    weight, x = randn(num_outputs, num_inputs), randn(rows, num_inputs, seed=2).float()
    assert relative_error(packed(weight, is_int8)(x), x.double() @ weight.double().T) < ERRORS[is_int8]


@needs_kernels
@both
def test_what_else_is_in_the_batch_changes_no_bit(is_int8: bool) -> None:
    linear, x = packed(randn(128, 256), is_int8), randn(70, 256, seed=2).float()
    x[3] *= 1000
    together = linear(x)
    assert torch.equal(together, torch.cat([linear(row[None]) for row in x]))
    assert torch.equal(together, torch.cat([linear(x[:13]), linear(x[13:])]))


@needs_kernels
@both
def test_gates_come_out_in_the_order_of_the_weights(is_int8: bool) -> None:
    weight, x = randn(192, 64), randn(5, 64, seed=2).float()
    assert torch.equal(packed(weight, is_int8, is_gated=True)(x), packed(weight, is_int8)(x))


@needs_kernels
def test_outputs_have_the_shape_and_dtype_of_the_inputs() -> None:
    out = packed(randn(128, 64), True)(randn(2, 3, 64))
    assert (out.shape, out.dtype) == ((2, 3, 128), torch.bfloat16)
    assert packed(randn(128, 64), False)(randn(0, 64)).shape == (0, 128)


@needs_kernels
def test_one_huge_activation_spoils_only_its_neighbours() -> None:
    """SmolLM2 has inputs of 2826 at position 0, where the median is 1.3."""
    weight, x = randn(128, 1024), randn(1, 1024, seed=2).float()
    x[0, 700] = 3000
    weight[:, 640:704] = 0  # the group of the huge one: what is left must be as exact as without it
    assert relative_error(packed(weight, True)(x), x.double() @ weight.double().T) < ERRORS[True]


@needs_kernels
def test_an_outlier_is_spread_over_its_group_before_rounding() -> None:
    weight, x = randn(128, 256), randn(9, 256, seed=2).float()
    x[:, 7::64] = 12
    groups = x.view(9, -1, 64)
    scales = groups.abs().amax(dim=-1, keepdim=True) / 127
    rounded = ((groups / scales).round() * scales).view(9, -1)
    expected = x.double() @ weight.double().T
    as_they_are = relative_error(rounded.double() @ weight.double().T, expected)
    assert relative_error(packed(weight, True)(x), expected) < 0.6 * as_they_are


@needs_kernels
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_rounding_does_not_depend_on_the_size_of_values(scale: float) -> None:
    weight, x = randn(64, 128), randn(3, 128, seed=2).float()
    for scaled_weight, scaled_x in ((weight * scale, x), (weight, x * scale)):
        expected = scaled_x.double() @ scaled_weight.double().T
        assert relative_error(packed(scaled_weight, True)(scaled_x), expected) < ERRORS[True]


@needs_kernels
@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(bad: float, is_int8: bool) -> None:
    x = randn(2, 128).float()
    x[1, 70] = bad
    out = packed(randn(64, 128), is_int8)(x)
    assert out[0].isfinite().all()
    assert not out[1].isfinite().any()


@needs_kernels
@both
def test_zeros_stay_zero(is_int8: bool) -> None:
    weight = randn(64, 128)
    weight[5] = 0
    linear = packed(weight, is_int8)
    assert not linear(torch.zeros(2, 128)).any()
    assert not linear(randn(2, 128).float())[:, 5].any()


@needs_kernels
def test_shapes_that_do_not_fit_are_refused_in_words() -> None:
    decoder = small_decoder(hidden_size=96)
    with pytest.raises(ConfigError, match=r"multiples of 64.*\[256, 96\]; set weights to full"):
        quantize_linears(decoder)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(packing, "kernels", lambda: None)
    yield


def test_without_kernels_weights_of_8_bits_are_refused_in_words(no_kernels: None) -> None:
    with pytest.raises(ConfigError, match="set weights to full"):
        quantize_linears(small_decoder(hidden_size=64))
