"""What is known of a decoder's keys and queries before they are rounded to 8 bits, and need not be rounded therefore.

Attention depends on how keys differ: a vector that is taken from all keys of a head changes all scores of a query by
the same amount, and softmax not at all. Keys have a few channels that are large for every token, and these set the
scale with which the rest is rounded (Zhang et al., SageAttention, arXiv 2410.02367, leave out the mean of the keys at
hand; a cache needs one vector for all texts, so that no verdict depends on what was read before).

Queries have much in common too, and errors of keys count most along it: with one number more for each key, its
projection on one direction of a head is multiplied exactly.

Whatever vectors are taken, scores are the same up to rounding. Verdicts that shall be the same on every machine need
the same vectors everywhere: they are computed once, and stored with the guard.
"""

# Shapes: T tokens; L layers; H query heads; K key/value heads; d head size.

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamward.kernels.cache import SequenceSlice
from streamward.kernels.decoder import Floats, KernelDecoder
from streamward.kernels.quantization import hadamard_transform

_DOUBLINGS = 8  # of the power to which a matrix is raised to find its first eigenvector


class KeyTables(NamedTuple):
    """Of each key head after rotary embedding, float32 [L, K, d]; 0 where they are not finite.

    Attributes:
        mean_key: What keys have in common.
        outlier_direction: Where queries are largest, of length 1 and Hadamard-transformed, as `LayerWeights` takes it.
    """

    mean_key: Floats
    outlier_direction: Floats


def key_tables(decoder: KernelDecoder, ids: Sequence[int]) -> KeyTables:
    """Read some tokens, and return what their keys and queries show behind the first token, which is like no other.

    Args:
        decoder: With a cache of 16 bits, whose first pages are overwritten.
        ids: At least two token ids; at most `max_rows`, and as many as its pages hold.
    """
    weights, num_tokens = decoder.weights, len(ids)
    num_layers, num_kv_heads, head_dim = len(weights.layers), weights.num_kv_heads, weights.head_dim
    queries = np.empty((num_layers, num_tokens, weights.num_heads, head_dim), np.float32)
    pages = range(-(-num_tokens // decoder.page_tokens))
    span = range(num_tokens)
    decoder.decode(
        ids, positions=span, slots=span, parts=[SequenceSlice(num_tokens, num_tokens, pages)], queries=queries
    )
    keys = np.concatenate([decoder.cached_keys(page) for page in pages], axis=2)[:, :, 1:num_tokens]
    rows = queries[:, 1:].reshape(num_layers, num_tokens - 1, num_kv_heads, -1, head_dim)
    rows = rows.transpose(0, 2, 1, 3, 4).reshape(num_layers, num_kv_heads, -1, head_dim)
    with np.errstate(invalid="ignore", over="ignore"):
        moments = rows.swapaxes(-1, -2) @ rows
        mean = keys.mean(axis=2)
    return KeyTables(_zero_non_finite(mean), hadamard_transform(_first_eigenvectors(_zero_non_finite(moments))))


def _zero_non_finite(x: Floats) -> Floats:
    return np.where(np.isfinite(x), x, np.float32(0))


def _first_eigenvectors(moments: Floats) -> Floats:
    """By squaring: of a high power of a symmetric matrix, every column points along the first eigenvector."""
    tiny = np.finfo(np.float32).tiny
    for _ in range(_DOUBLINGS):
        moments = moments / np.maximum(np.abs(moments).max(axis=(-2, -1), keepdims=True), tiny)
        moments = moments @ moments
    longest = np.linalg.norm(moments, axis=-2).argmax(axis=-1)
    columns = np.take_along_axis(moments, longest[..., None, None], axis=-1)[..., 0]
    lengths = np.maximum(np.linalg.norm(columns, axis=-1, keepdims=True), np.float32(1e-12))
    return np.asarray(columns / lengths, np.float32)
