"""The decoder over a paged cache of keys and values, all layers in one call of the kernels."""

# Shapes: T tokens of all sequences, packed; D hidden size; H query heads; K key/value heads; d head size; L layers;
# V vocabulary.

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.arena import lazy_zeros
from streamward.kernels.cache import SequenceSlice as SequenceSlice
from streamward.kernels.cache import cache_token_bytes, items_of
from streamward.kernels.library import Kernels, rope_table_into
from streamward.kernels.quantization import QuantizedWeight
from streamward.kernels.structs import BufferArgs, CacheArgs, DecoderArgs, LayerArgs, StepArgs
from streamward.kernels.weights import OperandBuffer, PackedWeight

Floats = NDArray[np.float32]
_ACTIVATIONS = ("silu", "gelu_tanh")  # as in types.h


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Norms are float32 and multiply as they are: who loads a Gemma adds the 1 of its 1 + w.

    Attributes:
        qkv: Queries, keys and values [(H + 2K) d, D].
        out: [D, H d].
        gate_up: Gates and what they gate, packed with `is_gated`.
        down: [D, inner size].
        input_norm: [D], before attention.
        post_norm: [D], before the MLP.
        q_norm: [d], of each head of queries; None where there is none.
        k_norm: The same for keys.
        attention_out_norm: [D], of what attention adds (Gemma 3).
        mlp_out_norm: [D], of what the MLP adds (Gemma 3).
        window: How many tokens a query sees, its own among them; None for all.
        rope: Which of the decoder's `rope_thetas`.
        mean_key: [K, d], taken from all keys of a cache of 8 bits; None for zeros.
        outlier_direction: [K, d] of length 1 and Hadamard-transformed: what keys of a cache of 8 bits have along it is
            kept exactly; None for an arbitrary one.
    """

    qkv: PackedWeight
    out: PackedWeight
    gate_up: PackedWeight
    down: PackedWeight
    input_norm: Floats
    post_norm: Floats
    q_norm: Floats | None = None
    k_norm: Floats | None = None
    attention_out_norm: Floats | None = None
    mlp_out_norm: Floats | None = None
    window: int | None = None
    rope: int = 0
    mean_key: Floats | None = None
    outlier_direction: Floats | None = None


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A decoder of the Llama, Qwen3 or Gemma 3 family.

    Attributes:
        layers: From the first to the last.
        norm: [D], behind the last layer.
        embeddings: bfloat16 [V, D] as uint16, or of 8 bits; rows are read where they lie, which may be a mapped file.
        rope_thetas: Bases of the rotary embeddings that layers choose from.
        max_positions: Positions that they are computed for.
        embedding_scale: What embeddings are multiplied with.
    """

    layers: Sequence[LayerWeights]
    norm: Floats
    embeddings: NDArray[np.uint16] | QuantizedWeight
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_thetas: Sequence[float]
    max_positions: int
    activation: Literal["silu", "gelu_tanh"] = "silu"
    embedding_scale: float = 1.0


class Decoded(NamedTuple):
    """Outputs of one step; the arrays stay unchanged until the next one.

    Attributes:
        hidden: After the last norm, float32 [T, D].
        taps: After the layers that were asked for, float32 [taps, T, D].
    """

    hidden: Floats
    taps: Floats


class KernelDecoder:
    """Runs new tokens of many sequences over a paged cache."""

    def __init__(
        self,
        kernels: Kernels,
        weights: DecoderWeights,
        *,
        num_pages: int,
        page_tokens: int,
        max_rows: int,
        int8_cache: bool = False,
        fast_attention: bool = False,
    ) -> None:
        """Reserve the cache and all memory of a step; see `is_supported` for the shapes.

        Args:
            kernels: Those that packed the weights.
            weights: Weights of the decoder; kept alive.
            num_pages: Pages of the cache.
            page_tokens: Tokens of one page, a multiple of 16.
            max_rows: Tokens of one step at most.
            int8_cache: Whether keys and values are rounded to 8 bits.
            fast_attention: Whether a cache of 16 bits may be multiplied by dot products of pairs where the unit has
                them. Then results are the same only within a unit; else on all units.
        """
        self._kernels, self._weights = kernels, weights
        self._max_rows = max_rows
        num_kv_heads, head_dim, num_layers = weights.num_kv_heads, weights.head_dim, len(weights.layers)
        hidden_size = len(weights.norm)
        layer_bytes = page_tokens * cache_token_bytes(num_kv_heads=num_kv_heads, head_dim=head_dim, is_int8=int8_cache)
        self._cache: NDArray[np.uint8] = lazy_zeros((num_pages, num_layers, layer_bytes), np.uint8, huge_pages=True)
        self.page_bytes = num_layers * layer_bytes
        """Size of a page in bytes."""
        self._kept: list[NDArray[Any]] = []  # what addresses point to
        tables = [self._rope_table(theta) for theta in weights.rope_thetas]
        self._layers = (LayerArgs * num_layers)(
            *(self._layer(layer, tables[layer.rope], index) for index, layer in enumerate(weights.layers))
        )
        is_quantized = isinstance(weights.embeddings, QuantizedWeight)
        rows = weights.embeddings.values if isinstance(weights.embeddings, QuantizedWeight) else weights.embeddings
        self._vocab_size = len(rows)
        assert rows.dtype == (np.int8 if is_quantized else np.uint16) and rows.shape[1] == hidden_size
        self._args = DecoderArgs(
            num_layers,
            hidden_size,
            weights.num_heads,
            _ACTIVATIONS.index(weights.activation),
            weights.rms_norm_eps,
            weights.embedding_scale,
            CacheArgs(num_kv_heads, head_dim, page_tokens, self.page_bytes, int8_cache),
            fast_attention,
            ctypes.addressof(self._layers),
            self._keep(rows),
            self._keep(weights.embeddings.scales) if isinstance(weights.embeddings, QuantizedWeight) else None,
            self._keep(weights.norm),
        )
        inner = max(layer.down.num_inputs for layer in weights.layers)
        heads_size = weights.num_heads * head_dim
        self._hidden = np.empty((max_rows, hidden_size), np.float32)
        self._branch = np.empty((max_rows, hidden_size), np.float32)
        self._wide = np.empty(max_rows * max(heads_size + 2 * num_kv_heads * head_dim, inner), np.float32)
        self._q = np.empty(max_rows * heads_size, np.float32)
        self._operand = OperandBuffer(max_rows, max(heads_size, inner, hidden_size))
        self._final = np.empty((max_rows, hidden_size), np.float32)

    def decode(
        self,
        ids: Sequence[int],
        *,
        positions: Sequence[int],
        slots: Sequence[int],
        parts: Sequence[SequenceSlice],
        taps: Sequence[int] = (),
    ) -> Decoded:
        """Store the new tokens' keys and values, and return their hidden states.

        Args:
            ids: Ids of the new tokens, at most `max_rows`.
            positions: Position of each new token in its sequence, below `max_positions`.
            slots: Where each new token goes in the cache: page * page_tokens + offset.
            parts: One slice for each sequence, in the order of the tokens.
            taps: Layers, counted from 0 and in ascending order, whose output is wanted too.
        """
        num_rows, weights = len(ids), self._weights
        where = np.array([ids, positions, slots], dtype=np.int64)
        assert 0 < num_rows <= self._max_rows
        assert where[:2].min() >= 0 and where[0].max() < self._vocab_size and where[1].max() < weights.max_positions
        items, pages = items_of(parts, group=weights.num_heads // weights.num_kv_heads)
        tap_layers = np.array(taps, dtype=np.int32)
        tapped = np.empty((len(taps), num_rows, self._hidden.shape[1]), np.float32)
        assert list(taps) == sorted(taps) and all(0 <= tap < len(weights.layers) for tap in taps)
        ids_at, positions_at, slots_at = (row.ctypes.data for row in where)
        step = StepArgs(num_rows, len(items), ids_at, positions_at, slots_at, items.ctypes.data, pages.ctypes.data)
        buffers = BufferArgs(
            *(array.ctypes.data for array in (self._hidden, self._branch, self._wide, self._q)),
            self._operand.args,
            self._final.ctypes.data,
            len(taps),
            tap_layers.ctypes.data,
            tapped.ctypes.data,
            None,
        )
        self._kernels.call("decode", *(ctypes.addressof(args) for args in (self._args, step, buffers)))
        return Decoded(self._final[:num_rows], tapped)

    def limit_layers(self, count: int | None) -> None:
        """Run only the first layers from now on, or all (None); keys and values of the others are not stored then."""
        self._args.num_layers = len(self._weights.layers) if count is None else count

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of the cache."""
        self._cache[target] = self._cache[source]

    def _keep(self, array: NDArray[Any]) -> int:
        """Return the address of an array that stays alive."""
        self._kept.append(np.ascontiguousarray(array))
        return self._kept[-1].ctypes.data

    def _norm(self, weight: Floats | None) -> int | None:
        return None if weight is None else self._keep(np.asarray(weight, np.float32))

    def _rope_table(self, theta: float) -> tuple[int, int]:
        shape = (self._weights.max_positions, self._weights.head_dim // 2)
        cosines, sines = (self._keep(lazy_zeros(shape, np.float32)) for _ in range(2))
        rope_table_into(theta, head_dim=self._weights.head_dim, num_positions=shape[0], cosines=cosines, sines=sines)
        return cosines, sines

    def _layer(self, layer: LayerWeights, table: tuple[int, int], index: int) -> LayerArgs:
        shape = (self._weights.num_kv_heads, self._weights.head_dim)
        mean = np.zeros(shape, np.float32) if layer.mean_key is None else layer.mean_key
        direction = np.eye(1, shape[1], dtype=np.float32).repeat(shape[0], 0)
        if layer.outlier_direction is not None:
            direction = layer.outlier_direction
        assert mean.shape == direction.shape == shape
        return LayerArgs(
            *(linear.address for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)),
            *(self._norm(norm) for norm in (layer.input_norm, layer.post_norm, layer.q_norm, layer.k_norm)),
            *(self._norm(norm) for norm in (layer.attention_out_norm, layer.mlp_out_norm, mean, direction)),
            *table,
            layer.window or 0,
            self._cache.ctypes.data + index * self._cache.strides[1],
        )
