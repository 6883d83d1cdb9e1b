"""Layers that write far more than others into the residual stream are not rounded."""

import pytest
import torch
from torch import nn

from streamward.model.decoder import Decoder
from streamward.model.layers import DecoderLayer
from streamward.model.native.library import kernels
from streamward.model.native_linear import NativeLinear
from streamward.model.packing import quantize_linears
from streamward.model.sensitive_layers import sensitive_layers
from tests.model.test_native_linear import needs_kernels, small_decoder

IDS = torch.arange(30)
LINEARS = ("qkv", "out", "gate_up", "down")


def decoder_of_four() -> Decoder:
    return small_decoder(hidden_size=64, num_layers=4)


def layer_of(decoder: Decoder, index: int) -> DecoderLayer:
    layer = decoder.layers[index]
    assert isinstance(layer, DecoderLayer)
    return layer


def enlarge(linear: nn.Module, factor: float) -> None:
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.mul_(factor)


def costly(decoder: Decoder) -> set[nn.Module]:
    library = kernels()
    assert library is not None
    return sensitive_layers(decoder, IDS, library=library)


@needs_kernels
def test_layers_that_write_little_may_be_rounded() -> None:
    assert costly(decoder_of_four()) == set()


@needs_kernels
@pytest.mark.parametrize("name", ["out", "down"])
def test_a_layer_that_writes_much_may_not(name: str) -> None:
    decoder = decoder_of_four()
    large = getattr(layer_of(decoder, 2), name)
    enlarge(large, 100)
    assert costly(decoder) == {large}


@needs_kernels
def test_what_counts_is_the_share_of_the_whole_stream() -> None:
    decoder = decoder_of_four()
    enlarge(layer_of(decoder, 1).down, 100)
    enlarge(layer_of(decoder, 3).down, 10)
    assert costly(decoder) == {layer_of(decoder, 1).down}
    enlarge(layer_of(decoder, 1).down, 1 / 100)
    assert costly(decoder) == {layer_of(decoder, 3).down}


@needs_kernels
def test_only_costly_layers_keep_their_weights() -> None:
    decoder = decoder_of_four()
    enlarge(layer_of(decoder, 2).down, 100)
    quantize_linears(decoder)
    kept = {
        (index, name)
        for index in range(4)
        for name in LINEARS
        if not isinstance(getattr(layer_of(decoder, index), name), NativeLinear)
    }
    assert kept == {(2, "down")}
