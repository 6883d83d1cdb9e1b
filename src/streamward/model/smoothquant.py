"""Scales of channels, moved from activations into weights before both are rounded to 8 bits.

A few channels of the hidden states are ten to fifty times larger than the rest, and spoil the scale of the group they
are in. Dividing the weights of a norm by what the columns behind it are multiplied with changes nothing else (Xiao et
al., SmoothQuant, arXiv 2211.10438). All factors are powers of two, so that it changes no bit either.
"""

# Shapes: T tokens; I inputs of a layer.

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from streamward.model.calibration_pass import forward_hooks
from streamward.model.decoder import Decoder, dense_hidden
from streamward.model.layers import DecoderLayer, RMSNorm

_SHARE = 0.7  # of an activation's range that goes into the weights; 0.5 and 0.9 left larger errors
_SMALLEST = 1e-5
_LEAST_GAIN = 1.0  # octaves


@torch.inference_mode()
def apply_smoothquant(decoder: Decoder, ids_T: Tensor) -> None:
    """Scale the channels between norms and the layers that read them; the decoder computes the same as before.

    Args:
        decoder: Whose layers.
        ids_T: Token ids to see with which channels are large.
    """
    readers = [(norm, linear) for layer in decoder.layers for norm, linear in _readers(layer)]
    ranges: dict[nn.Module, Tensor] = {}

    def note_range(linear: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        ranges[linear] = inputs[0][1:].abs().float().amax(dim=0)  # the first token's left out: it is like no other

    with forward_hooks([linear for _, linear in readers], note_range):
        dense_hidden(decoder, ids_T[None])
    for norm, linear in readers:
        factors_I = _factors(ranges[linear], linear.weight)
        norm.weight.div_(factors_I)
        linear.weight.mul_(factors_I)


def _readers(layer: nn.Module) -> Iterator[tuple[RMSNorm, nn.Linear]]:
    assert isinstance(layer, DecoderLayer)
    for norm, linear in ((layer.input_norm, layer.qkv), (layer.post_norm, layer.gate_up)):
        assert isinstance(linear, nn.Linear)
        yield norm, linear


def _factors(range_I: Tensor, weight: Tensor) -> Tensor:
    """Return powers of two for the columns; 1 where a range is not finite, as in a damaged checkpoint.

    All are 1 where no column is off by a factor of two, so that smoothing a decoder twice changes nothing.
    """
    columns_I = weight.abs().float().amax(dim=0)
    factors_I = range_I.clamp(min=_SMALLEST) ** _SHARE / columns_I.clamp(min=_SMALLEST) ** (1 - _SHARE)
    logs_I = factors_I.log2()
    logs_I = logs_I - logs_I.mean()
    logs_I = torch.where(logs_I.isfinite(), logs_I, 0.0)
    return torch.exp2(logs_I.round() if float(logs_I.abs().max()) >= _LEAST_GAIN else torch.zeros_like(logs_I))
