"""Which linear layers must not be rounded to 8 bits.

What a decoder adds up from layer to layer, its residual stream, is written to by two linear layers of each: those
behind attention and behind the gates. In small models a few of them write far more than the rest, or something far
larger for one token than for others, and rounding one such layer costs as much as ten of the others.
"""

# Shapes: T tokens; I inputs and D outputs of a layer.

import ctypes

import torch
from torch import Tensor, nn

from streamward.model.calibration_pass import forward_hooks
from streamward.model.decoder import Decoder, dense_hidden
from streamward.model.layers import DecoderLayer
from streamward.model.native_linear import NativeLinear

_LARGEST_ERROR = 5e-6
"""Of the residual stream's power. Two of 36 such layers of `stream-135m` lie above it (docs/explanation/speed.md)."""


@torch.inference_mode()
def sensitive_layers(decoder: Decoder, ids_T: Tensor, *, library: ctypes.CDLL) -> set[nn.Module]:
    """Return the linear layers whose rounding disturbs the residual stream too much.

    Args:
        decoder: Equalized, its layers not packed yet; all that write to the residual stream must fit the kernels.
        ids_T: Token ids to try it with.
        library: The kernels.
    """
    writers = [writer for layer in decoder.layers for writer in _writers(layer)]
    stream_TD = decoder.embed(ids_T).float()
    costly: set[nn.Module] = set()

    def compare(writer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(writer, nn.Linear)
        x_TI = inputs[0].float()
        exact_TD = x_TI @ writer.weight.float().T
        rounded_TD = NativeLinear(writer.weight, library=library, is_int8=True)(x_TI)
        stream_TD.add_(exact_TD)
        if (rounded_TD - exact_TD).square().sum() > _LARGEST_ERROR * stream_TD.square().sum():
            costly.add(writer)

    with forward_hooks(writers, compare):
        dense_hidden(decoder, ids_T[None])
    return costly


def _writers(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    assert isinstance(layer, DecoderLayer)
    return layer.out, layer.down
