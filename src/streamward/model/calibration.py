"""A pass over a few tokens shows what reaches the layers of a decoder before its weights are rounded."""

# Shapes: T tokens; D hidden size.

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.bfloat16 import from_bfloat16
from streamward.model.config import ModelConfig
from streamward.model.parameters import EMBEDDING, ModelParameters, embedding_scale
from streamward.model.reference_decoder import Floats, Linear

_NUM_TOKENS = 128


def calibration_ids(config: ModelConfig) -> NDArray[np.int64]:
    """Return token ids [T], the same everywhere: which channels are large depends little on the text."""
    state, ids = 1, []
    for _ in range(min(_NUM_TOKENS, config.max_positions)):  # MINSTD, as a library's generator may change
        state = state * 48271 % (2**31 - 1)
        ids.append(state % config.vocab_size)
    return np.array(ids, dtype=np.int64)


def exact_linear(parameters: ModelParameters) -> Linear:
    """Return what applies a model's matrices as they are, 8-bit ones dequantized."""

    def linear(name: str, x_TI: Floats) -> Floats:
        out: Floats = x_TI @ from_bfloat16(parameters.bfloat16(f"{name}.weight")).T.astype(np.float64)
        return out

    return linear


class Embedding:
    """Looks up the scaled embeddings of token ids."""

    def __init__(self, parameters: ModelParameters) -> None:
        """Take the table of a model."""
        self._table = parameters.bfloat16(EMBEDDING)
        self._scale = embedding_scale(parameters.config)

    def __call__(self, ids_T: NDArray[np.int64]) -> Floats:
        """Return [T, D]."""
        return from_bfloat16(self._table[ids_T]).astype(np.float64) * self._scale
