"""Weights rounded once are found again by whoever serves them with 8 bits."""

import copy

import pytest
import torch
from streamward.model.calibration_pass import calibration_ids
from streamward.model.fake_quantization import fake_quantize_weights
from streamward.model.native_linear import fake_quantize
from streamward.model.smoothquant import apply_smoothquant
from tests.model.test_native_linear import relative_error, small_decoder
from torch import nn

from streamward.bundled.embedded import prepare_guard
from streamward.errors import ConfigError
from streamward.model.checkpoint import load_stream
from streamward.model.decoder import Decoder, dense_hidden

IDS = torch.arange(30)
OF_BFLOAT16 = 0.0025  # the error of rounding to it, relative to all weights; that of 8 bits is 0.006


def rough_decoder() -> Decoder:
    """With channels that are worth smoothing."""
    decoder = small_decoder(hidden_size=128, num_layers=2)
    with torch.no_grad():
        for name in ("layers.0.input_norm.weight", "layers.1.post_norm.weight"):
            decoder.get_parameter(name)[5:9] = 40.0
    return decoder


def linears(decoder: Decoder) -> list[nn.Linear]:
    return [child for layer in decoder.layers for child in layer.children() if isinstance(child, nn.Linear)]


def assert_eight_bits_hold(decoder: Decoder) -> None:
    """As `quantize_linears` would find it: after smoothing, which changes nothing any more."""
    again = copy.deepcopy(decoder)
    apply_smoothquant(again, calibration_ids(again))
    with torch.no_grad():
        for linear, smoothed in zip(linears(decoder), linears(again), strict=True):
            assert torch.equal(linear.weight, smoothed.weight)
            assert relative_error(fake_quantize(linear.weight), linear.weight.double()) < OF_BFLOAT16


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rounding_twice_is_rounding_once(scale: float) -> None:
    weight = torch.randn(96, 192, generator=torch.Generator().manual_seed(0)) * scale
    once = fake_quantize(weight)
    assert 0.004 < relative_error(once, weight.double()) < 0.008
    twice = fake_quantize(once.bfloat16())
    torch.testing.assert_close(twice, once, rtol=1e-5, atol=1e-5 * scale)


def test_weights_of_nothing_stay_nothing() -> None:
    assert torch.equal(fake_quantize(torch.zeros(2, 64)), torch.zeros(2, 64))


def test_a_rounded_decoder_is_the_same_in_8_bits() -> None:
    decoder = rough_decoder()
    with pytest.raises(AssertionError):
        assert_eight_bits_hold(decoder)
    fake_quantize_weights(decoder)
    assert decoder.embed.weight.dtype is torch.bfloat16
    assert decoder.cos_Pr.dtype is torch.float32
    assert_eight_bits_hold(decoder)


@torch.inference_mode()
def test_it_says_nearly_what_it_said() -> None:
    decoder = rough_decoder()
    before = dense_hidden(decoder, IDS[None])
    fake_quantize_weights(decoder)
    assert relative_error(dense_hidden(decoder, IDS[None]), before.double()) < 0.03


def test_sizes_that_8_bits_do_not_serve_are_refused() -> None:
    decoder = small_decoder(hidden_size=96)
    with pytest.raises(ConfigError, match="multiples of 64; there is a layer of 96"):
        fake_quantize_weights(decoder)


@pytest.mark.parametrize("name", ["stream-135m", "stream-135m-small"])
def test_an_embedded_guard_is_the_same_in_8_bits(name: str) -> None:
    assert_eight_bits_hold(load_stream(prepare_guard(name), dtype=torch.bfloat16).decoder)
