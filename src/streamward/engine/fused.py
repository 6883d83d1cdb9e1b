"""The decoder over the paged cache with native kernels between its linear projections."""

# Shapes: T tokens of all streams, packed and padded; D hidden size; F intermediate size; H query heads; d head size.

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from streamward.engine.attention import KVCache
from streamward.model.decoder import Decoder
from streamward.model.layers import DecoderLayer, RMSNorm
from streamward.model.native.library import MAX_ROWS, AttendPlan, RotatePlan, fits, kernels

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Reach:
    """One stream's share of a step.

    Attributes:
        count: Its new tokens.
        num_seen: Its tokens in the cache, the new ones among them.
        pages: Where they are.
    """

    count: int
    num_seen: int
    pages: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's projections, and addresses of its norms' weights and of its cache."""

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    input_norm: int
    q_norm: int | None
    k_norm: int | None
    post_norm: int
    keys: int
    values: int


class FusedDecoder:
    """Does what `Decoder` does with `PagedAttention`, in ten calls a layer instead of forty."""

    def __init__(self, library: ctypes.CDLL, decoder: Decoder, *, cache: KVCache, page_tokens: int) -> None:
        """Made by `create`."""
        self._library = library
        self._decoder = decoder  # keeps alive what the addresses point to
        self._cache = cache
        self._page_tokens = page_tokens
        self._num_slots = cache.keys[0].shape[1]
        self._layers = [
            _layer(layer, keys, values)
            for layer, keys, values in zip(decoder.layers, cache.keys, cache.values, strict=True)
            if isinstance(layer, DecoderLayer)
        ]

    @classmethod
    def create(cls, decoder: Decoder, *, cache: KVCache, page_tokens: int) -> Self | None:
        """Return None where there are no kernels or they do not take this decoder."""
        config, weight = decoder.config, decoder.embed.weight
        if weight.device.type != "cpu" or not fits(
            head_dim=config.head_dim,
            group=config.num_heads // config.num_kv_heads,
            sizes=(config.hidden_size, config.intermediate_size),
            dtype=weight.dtype,
        ):
            return None
        library = kernels()
        return None if library is None else cls(library, decoder, cache=cache, page_tokens=page_tokens)

    def __call__(
        self, ids_T: Tensor, *, positions: Sequence[int], slots: Sequence[int], parts: Sequence[Reach]
    ) -> Tensor:
        """Store the new tokens' keys and values; return the hidden states after the final norm, [T, D].

        Args:
            ids_T: Token ids, int64; those behind the last position are padding.
            positions: Of each new token in its stream.
            slots: Where each new token goes in the cache.
            parts: Of each stream, in the order of the tokens.
        """
        config = self._decoder.config
        where = np.array([positions, slots], dtype=np.int64)
        items, pages = _items(parts, max_tokens=MAX_ROWS // (config.num_heads // config.num_kv_heads))
        rotate_plan, attend_plan = self._rotate_plan(where), self._attend_plan(items, pages)
        hidden_TD = F.embedding(ids_T, self._decoder.embed.weight)
        self._run_layers(hidden_TD, rotate_plan, attend_plan, num_new=len(positions))
        return hidden_TD

    def _run_layers(self, hidden_TD: Tensor, rotate_plan: RotatePlan, attend_plan: AttendPlan, *, num_new: int) -> None:
        """Replace embeddings by final hidden states."""
        config, library, num_rows = self._decoder.config, self._library, len(hidden_TD)
        size, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        normed_TD = torch.empty_like(hidden_TD)
        q_THd = hidden_TD.new_empty(num_rows, config.num_heads, config.head_dim)
        attended_TA = hidden_TD.new_zeros(num_rows, config.num_heads * config.head_dim)  # padding stays zero
        gated_TF = hidden_TD.new_empty(num_rows, inner)
        hidden, normed, q = hidden_TD.data_ptr(), normed_TD.data_ptr(), q_THd.data_ptr()
        attended, gated = attended_TA.data_ptr(), gated_TF.data_ptr()
        rotating, attending = ctypes.byref(rotate_plan), ctypes.byref(attend_plan)
        delta: int | None = None
        for layer in self._layers:
            library.streamward_add_norm(hidden, delta, layer.input_norm, normed, num_rows, size, eps)
            qkv = layer.qkv(normed_TD)
            library.streamward_rotate_store(
                rotating, qkv.data_ptr(), layer.q_norm, layer.k_norm, q, layer.keys, layer.values, num_new
            )
            library.streamward_attend(attending, q, layer.keys, layer.values, attended)
            out_TD = layer.out(attended_TA)
            library.streamward_add_norm(hidden, out_TD.data_ptr(), layer.post_norm, normed, num_rows, size, eps)
            gate_up = layer.gate_up(normed_TD)
            library.streamward_silu_mul(gate_up.data_ptr(), gated, num_rows, inner)
            down_TD = layer.down(gated_TF)  # keeps `delta` alive
            delta = down_TD.data_ptr()
        library.streamward_add_norm(hidden, delta, _address(self._decoder.norm), hidden, num_rows, size, eps)

    def _rotate_plan(self, where: np.ndarray) -> RotatePlan:
        config = self._decoder.config
        return RotatePlan(
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            self._num_slots,
            config.rms_norm_eps,
            self._decoder.cos_Pr.data_ptr(),
            self._decoder.sin_Pr.data_ptr(),
            where[0].ctypes.data,
            where[1].ctypes.data,
        )

    def _attend_plan(self, items: np.ndarray, pages: np.ndarray) -> AttendPlan:
        config = self._decoder.config
        return AttendPlan(
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            self._num_slots,
            self._page_tokens,
            len(items),
            items.ctypes.data,
            pages.ctypes.data,
        )


def _items(parts: Sequence[Reach], *, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut long chunks, list the costliest first so that threads end together; and put all pages in one table."""
    items: list[tuple[int, int, int, int]] = []
    pages: list[int] = []
    row = 0
    for part in parts:
        for start in range(0, part.count, max_tokens):
            count = min(max_tokens, part.count - start)
            items.append((row + start, count, part.num_seen - part.count + start + count, len(pages)))
        pages += part.pages
        row += part.count
    items.sort(key=lambda item: item[1] * item[2], reverse=True)
    return np.array(items, dtype=np.int32), np.array(pages, dtype=np.int32)


def _layer(layer: DecoderLayer, keys: Tensor, values: Tensor) -> _Layer:
    return _Layer(
        qkv=layer.qkv.forward,
        out=layer.out.forward,
        gate_up=layer.gate_up.forward,
        down=layer.down.forward,
        input_norm=_address(layer.input_norm),
        q_norm=None if layer.q_norm is None else _address(layer.q_norm),
        k_norm=None if layer.k_norm is None else _address(layer.k_norm),
        post_norm=_address(layer.post_norm),
        keys=keys.data_ptr(),
        values=values.data_ptr(),
    )


def _address(norm: RMSNorm) -> int:
    return norm.weight.data_ptr()
