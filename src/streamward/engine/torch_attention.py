"""Attention of new tokens over the paged KV cache."""

# Shapes: T new tokens of all streams, packed; H query heads; K key/value heads; d head size; S slots of the cache.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamward.model.attention import attend
from streamward.model.config import ModelConfig
from streamward.model.memory import lazy_zeros


class KVCache:
    """Keys and values of every layer, [K, S, d] each. Slot = page * page_tokens + offset."""

    def __init__(self, config: ModelConfig, *, num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        """Reserve address space; the system gives memory as slots are written. Unused slots must hold finite values."""
        shape = (config.num_kv_heads, num_slots, config.head_dim)
        self.keys = [_zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [_zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
        """Return what one token takes over all layers."""
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize

    @torch.inference_mode()
    def copy_page(self, source: int, target: int, *, page_tokens: int) -> None:
        """Copy a page in every layer."""
        from_slot, to_slot = source * page_tokens, target * page_tokens
        for tensor in (*self.keys, *self.values):
            tensor[:, to_slot : to_slot + page_tokens] = tensor[:, from_slot : from_slot + page_tokens]


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """One stream's share of a step.

    Attributes:
        rows: Its new tokens among the T of the step.
        slots: Its pages in the cache up to the one of its last new token, or more: a slice if side by side.
        num_seen: Its tokens there, the new ones among them.
    """

    rows: slice
    slots: slice | Tensor
    num_seen: int


class PagedAttention:
    """Stores the new keys and values of one step, then attends stream by stream."""

    def __init__(
        self, config: ModelConfig, cache: KVCache, *, new_slots_T: Tensor, parts: Sequence[AttentionMetadata]
    ) -> None:
        """Take the plan of one step."""
        self._config = config
        self._cache = cache
        self._new_slots_T = new_slots_T
        self._parts = parts
        self.num_new = len(new_slots_T)
        """New tokens; rows behind them are padding."""

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        """Return the attended values, [T, H * d]."""
        keys_KSd, values_KSd = self._cache.keys[layer], self._cache.values[layer]
        keys_KSd.index_copy_(1, self._new_slots_T, k_TKd[: self.num_new].transpose(0, 1))
        values_KSd.index_copy_(1, self._new_slots_T, v_TKd[: self.num_new].transpose(0, 1))
        out_THd = torch.zeros_like(q_THd)
        window = self._config.window_of(layer)
        for part in self._parts:
            k_KNd, v_KNd = keys_KSd[:, part.slots], values_KSd[:, part.slots]
            out_THd[part.rows] = attend(q_THd[part.rows], k_KNd, v_KNd, num_seen=part.num_seen, window=window)
        return out_THd.flatten(1)


def _zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return lazy_zeros(shape, dtype=dtype)
