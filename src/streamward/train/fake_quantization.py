"""Rounds the weights of a guard as serving will, so that operating points are calibrated on these weights."""

from streamward.model.decoder import Decoder
from streamward.model.preparation import prepare
from streamward.model.torch_parameters import decoder_parameters, load_parameters_into


def fake_quantize_weights(decoder: Decoder) -> None:
    """Give a decoder the values that its weights have after `streamward.model.preparation.prepare`.

    Preparing the result again finds the same integers.

    Args:
        decoder: Changed in place; SmoothQuant is applied too, so norms change with the weights.

    Raises:
        ConfigError: A layer's inputs are not a multiple of 64.
    """
    load_parameters_into(decoder, prepare(decoder_parameters(decoder)))
