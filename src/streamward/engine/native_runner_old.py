"""The decoder over the paged cache in one call of the native kernels."""

# Shapes: T tokens of all streams, packed; D hidden size; H query heads; d head size.

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from streamward.model.calibration_pass import calibration_ids
from streamward.model.decoder import Decoder
from streamward.model.key_basis import key_basis
from streamward.model.layers import DecoderLayer, RMSNorm
from streamward.model.memory import lazy_zeros
from streamward.model.native import library as native
from streamward.model.native_linear import NativeLinear, PackedActivations, hadamard_transform


@dataclass(frozen=True, slots=True)
class SequenceMetadata:
    """One stream's share of a step.

    Attributes:
        count: Its new tokens.
        num_seen: Its tokens in the cache, the new ones among them.
        pages: Where they are.
    """

    count: int
    num_seen: int
    pages: Sequence[int]


class NativeModelRunner:
    """Does what `Decoder` does with `PagedAttention`, in one call of the native kernels for all layers."""

    def __init__(
        self,
        library: ctypes.CDLL,
        decoder: Decoder,
        *,
        num_pages: int,
        page_tokens: int,
        max_rows: int,
        int8_cache: bool,
    ) -> None:
        """Made by `create`."""
        config = decoder.config
        self._library = library
        self._decoder = decoder  # keeps alive what the addresses point to
        layer_bytes = page_tokens * native.cache_token_bytes(
            num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, is_int8=int8_cache
        )
        shape = (num_pages, config.num_layers, layer_bytes)
        self._cache = lazy_zeros(shape, dtype=torch.uint8, huge_pages=True)
        self._cache_shape = native.CacheShape(
            config.num_kv_heads, config.head_dim, page_tokens, self._cache.stride(0), int8_cache
        )
        self._key_tables = _key_tables(decoder) if int8_cache else None  # kept alive for the kernels
        layers = [
            _layer(layer, self._cache[:, index], None if self._key_tables is None else self._key_tables[:, index])
            for index, layer in enumerate(decoder.layers)
        ]
        self._layers = (native.LayerStruct * len(layers))(*layers)
        self._shape = native.DecoderStruct(
            len(layers),
            config.hidden_size,
            config.rms_norm_eps,
            ctypes.cast(self._layers, ctypes.c_void_p),
            decoder.embed.weight.data_ptr(),
            _address(decoder.norm),
        )
        qkv_size = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        widest = max(config.num_heads * config.head_dim, config.intermediate_size, config.hidden_size)
        self._hidden_TD = torch.empty(max_rows, config.hidden_size)
        self._wide = torch.empty(max_rows * max(qkv_size, config.intermediate_size))
        self._q_THd = torch.empty(max_rows, config.num_heads, config.head_dim, dtype=torch.bfloat16)
        self._packed = PackedActivations(max_rows, widest)
        self._final_TD = torch.empty(max_rows, config.hidden_size, dtype=torch.bfloat16)
        buffers = (self._hidden_TD.data_ptr(), self._wide.data_ptr(), self._q_THd.data_ptr(), self._packed.operand)
        self._buffers = native.Buffers(*buffers, self._final_TD.data_ptr())

    @classmethod
    def create(
        cls, decoder: Decoder, *, num_pages: int, page_tokens: int, max_rows: int, int8_cache: bool = False
    ) -> Self | None:
        """Return None where there are no kernels, or where `pack_linears` did not pack the decoder for them.

        Args:
            decoder: To be run.
            num_pages: Pages of its cache.
            page_tokens: Tokens of one page; the kernels take multiples of 16.
            max_rows: Tokens of one step at most.
            int8_cache: Whether keys and values are rounded to 8 bits.
        """
        config, library = decoder.config, native.kernels()
        linears = [child for layer in decoder.layers for child in layer.children() if not isinstance(child, RMSNorm)]
        is_packed = bool(linears) and all(isinstance(linear, NativeLinear) for linear in linears)
        is_bfloat16 = decoder.embed.weight.dtype is torch.bfloat16
        group = config.num_heads // config.num_kv_heads
        if (
            library is None
            or config.is_gemma
            or not (is_packed and is_bfloat16)
            or not native.is_supported(head_dim=config.head_dim, group=group, page_tokens=page_tokens)
        ):
            return None
        return cls(
            library, decoder, num_pages=num_pages, page_tokens=page_tokens, max_rows=max_rows, int8_cache=int8_cache
        )

    def __call__(
        self, ids: Sequence[int], *, positions: Sequence[int], slots: Sequence[int], parts: Sequence[SequenceMetadata]
    ) -> Tensor:
        """Store the new tokens' keys and values; return the hidden states after the final norm, [T, D].

        They stay as they are until the next call.

        Args:
            ids: Of the new tokens, at most `max_rows`.
            positions: Of each new token in its stream.
            slots: Where each new token goes in the cache.
            parts: Of each stream, in the order of the tokens.
        """
        config, num_rows = self._decoder.config, len(ids)
        where = np.array([ids, positions, slots], dtype=np.int64)
        items, pages = _items(parts, max_tokens=native.MAX_ROWS // (config.num_heads // config.num_kv_heads))
        self._library.streamward_decode(
            ctypes.byref(self._shape),
            where[0].ctypes.data,
            ctypes.byref(self._rotate_plan(where)),
            ctypes.byref(self._attend_plan(items, pages)),
            ctypes.byref(self._buffers),
            num_rows,
        )
        return self._final_TD[:num_rows]

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page of the cache."""
        self._cache[target] = self._cache[source]

    def _rotate_plan(self, where: np.ndarray) -> native.RotatePlan:
        config = self._decoder.config
        return native.RotatePlan(
            config.num_heads,
            config.rms_norm_eps,
            self._cache_shape,
            self._decoder.cos_Pr.data_ptr(),
            self._decoder.sin_Pr.data_ptr(),
            where[1].ctypes.data,
            where[2].ctypes.data,
        )

    def _attend_plan(self, items: np.ndarray, pages: np.ndarray) -> native.AttendPlan:
        return native.AttendPlan(
            self._decoder.config.num_heads,
            len(items),
            self._cache_shape,
            items.ctypes.data,
            pages.ctypes.data,
        )


def _items(parts: Sequence[SequenceMetadata], *, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
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


def _key_tables(decoder: Decoder) -> Tensor:
    """Return what the kernels leave out of keys, and the directions they keep exactly, [2, L, K, d]."""
    basis = key_basis(decoder, calibration_ids(decoder))
    return torch.stack([basis.mean_key, hadamard_transform(basis.outlier_direction)])


def _layer(layer: nn.Module, cache: Tensor, key_tables: Tensor | None) -> native.LayerStruct:
    assert isinstance(layer, DecoderLayer)
    usual, directions = (None, None) if key_tables is None else (table.data_ptr() for table in key_tables)
    return native.LayerStruct(
        *(_shape_address(linear) for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)),
        _address(layer.input_norm),
        None if layer.q_norm is None else _address(layer.q_norm),
        None if layer.k_norm is None else _address(layer.k_norm),
        _address(layer.post_norm),
        usual,
        directions,
        cache.data_ptr(),
    )


def _shape_address(linear: nn.Module) -> int:
    assert isinstance(linear, NativeLinear)
    return ctypes.addressof(linear.shape)


def _address(norm: RMSNorm) -> int:
    return norm.weight.data_ptr()
