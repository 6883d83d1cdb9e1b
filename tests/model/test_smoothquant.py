"""Scales that move between norms and weights change nothing but what rounding to 8 bits loses."""

import copy

import torch
from torch import Tensor

from streamward.model.decoder import Decoder, dense_hidden
from streamward.model.layers import DecoderLayer
from streamward.model.smoothquant import apply_smoothquant
from tests.model.test_native_linear import small_decoder

IDS = torch.arange(30)


def decoder_with_large_channels() -> Decoder:
    decoder = small_decoder(hidden_size=128)
    with torch.no_grad():
        layer_of(decoder).input_norm.weight[5] = 60.0
        layer_of(decoder).post_norm.weight[70] = 40.0
    return decoder


def layer_of(decoder: Decoder) -> DecoderLayer:
    (layer,) = decoder.layers
    assert isinstance(layer, DecoderLayer)
    return layer


@torch.inference_mode()
def hidden(decoder: Decoder) -> Tensor:
    return dense_hidden(decoder, IDS[None])


def test_no_bit_of_the_outputs_changes() -> None:
    decoder = decoder_with_large_channels()
    plain = copy.deepcopy(decoder)
    apply_smoothquant(decoder, IDS)
    assert torch.equal(hidden(decoder), hidden(plain))


def test_large_channels_come_closer_to_the_rest() -> None:
    decoder = decoder_with_large_channels()
    apply_smoothquant(decoder, IDS)
    layer = layer_of(decoder)
    for norm, channel, before in ((layer.input_norm, 5, 60.0), (layer.post_norm, 70, 40.0)):
        weight = norm.weight.detach()
        assert float(weight[channel] / weight.median()) < before / 8


def test_smoothing_twice_changes_nothing() -> None:
    decoder = decoder_with_large_channels()
    apply_smoothquant(decoder, IDS)
    once = copy.deepcopy(decoder.state_dict())
    apply_smoothquant(decoder, IDS)
    assert all(torch.equal(tensor, once[name]) for name, tensor in decoder.state_dict().items())


def test_a_damaged_norm_stays_damaged() -> None:
    decoder = decoder_with_large_channels()
    with torch.no_grad():
        layer_of(decoder).input_norm.weight[9] = float("nan")
    apply_smoothquant(decoder, IDS)
    assert hidden(decoder).isnan().any()
    assert int(layer_of(decoder).input_norm.weight.isfinite().sum()) == 127
