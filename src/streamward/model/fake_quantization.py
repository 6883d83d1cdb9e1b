"""Weights that are rounded once, when a guard is made.

Then it has the same weights whether it is served with 16 bits or with 8, and of the error that 8 bits make only that of
the activations is left: in `stream-135m` less than half (docs/explanation/speed.md).
"""

import torch
from torch import nn

from streamward.errors import ConfigError
from streamward.model.calibration_pass import calibration_ids
from streamward.model.decoder import Decoder
from streamward.model.native_linear import GROUP, fake_quantize
from streamward.model.smoothquant import apply_smoothquant


@torch.no_grad()
def fake_quantize_weights(decoder: Decoder) -> None:
    """Round the weights of a decoder's linear layers as `quantize_linears` does, which will then find them as they are.

    Args:
        decoder: In bfloat16, not packed. SmoothQuant is applied first.

    Raises:
        ConfigError: A layer's inputs are no multiple of 64.
    """
    linears = [child for layer in decoder.layers for child in layer.children() if isinstance(child, nn.Linear)]
    for linear in linears:
        if linear.in_features % GROUP:
            raise ConfigError(
                f"rounded weights need inputs that are multiples of {GROUP}; there is a layer of {linear.in_features}"
            )
    decoder.float().fill_rotary_table()  # other CPUs find the same channels large then
    apply_smoothquant(decoder, calibration_ids(decoder))
    for linear in linears:
        linear.weight.copy_(fake_quantize(linear.weight))
    decoder.bfloat16().fill_rotary_table()  # which stays float32
