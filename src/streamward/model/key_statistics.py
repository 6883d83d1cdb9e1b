"""Statistics of the keys and queries of a decoder, for a KV cache of 8 bits.

Attention depends on how keys differ: a vector subtracted from all keys of a head changes all scores of a query by the
same amount, and softmax not at all. Keys have a few channels that are large for every token and set the scale with
which the rest is rounded (Zhang et al., SageAttention, arXiv 2410.02367, subtract the mean of the keys at hand; a cache
needs one vector for all texts, so that no verdict depends on what was read before). Queries have much in common too,
and errors of keys count most along it: with one more number per key, the component along one direction is exact.
"""

# Shapes: L layers; H query heads; K key/value heads; d head size; T tokens.

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.quantization import hadamard_transform
from streamward.model.calibration import Embedding, calibration_ids, exact_linear
from streamward.model.parameters import KeyBasis, ModelParameters
from streamward.model.reference_decoder import Floats, ReferenceDecoder


def measure_key_basis(parameters: ModelParameters, ids_T: NDArray[np.int64] | None = None) -> KeyBasis:
    """Read a few tokens and return the mean of each head's keys and the direction in which its queries are largest.

    The direction is the first eigenvector of the queries' second moment, Hadamard-transformed as the kernels need it.
    The first token is left out: it is unlike all others.

    Args:
        parameters: The decoder.
        ids_T: Token ids to read; those of calibration by default.
    """
    statistics = KeyStatistics()
    decoder = ReferenceDecoder(
        parameters.config,
        vectors=parameters.vectors,
        linear=exact_linear(parameters),
        embed=Embedding(parameters),
    )
    decoder(calibration_ids(parameters.config) if ids_T is None else ids_T, at_attention=statistics.note)
    return statistics.basis()


class KeyStatistics:
    """Collects the keys and queries of all layers during a pass of `ReferenceDecoder`."""

    def __init__(self) -> None:
        """Start empty."""
        self._mean_keys: list[Floats] = []
        self._directions: list[Floats] = []

    def note(self, _: int, q_THd: Floats, k_TKd: Floats) -> None:
        """Take the rotated queries and keys of one layer."""
        num_kv_heads, head_dim = k_TKd.shape[1:]
        q_TKGd = q_THd[1:].reshape(len(q_THd) - 1, num_kv_heads, -1, head_dim)
        q_KNd = q_TKGd.swapaxes(0, 1).reshape(num_kv_heads, -1, head_dim)
        moments_Kdd = _finite(q_KNd.swapaxes(1, 2) @ q_KNd)
        vectors_Kdd = np.linalg.eigh(moments_Kdd).eigenvectors  # of ascending eigenvalues
        self._mean_keys.append(_finite(k_TKd[1:].mean(axis=0)))
        self._directions.append(vectors_Kdd[:, :, -1])

    def basis(self) -> KeyBasis:
        """Return the statistics of all layers, float32 [L, K, d]."""
        directions: NDArray[np.float32] = hadamard_transform(np.stack(self._directions).astype(np.float32))
        return KeyBasis(np.stack(self._mean_keys).astype(np.float32), directions)


def _finite(x: Floats) -> Floats:
    return np.where(np.isfinite(x), x, 0.0)
