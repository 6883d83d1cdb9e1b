"""Attention of new tokens over the paged KV cache."""

# Shapes: T new tokens of all streams, packed; t new tokens of one stream; N its tokens in the cache;
# H query heads; K key/value heads; G query heads a key head; d head size; S slots of the cache.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamward.model.config import ModelConfig

_MAX_ROWS = 128  # queries of a long chunk are taken in parts, so that scores stay in the CPU's cache


class KVCache:
    """Keys and values of every layer, [K, S, d] each. Slot = page * page_tokens + offset."""

    def __init__(self, config: ModelConfig, *, num_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        """Reserve address space for the cache; the system gives memory as slots are written."""
        shape = (config.num_kv_heads, num_slots, config.head_dim)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]

    @staticmethod
    def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
        """Return what one token takes over all layers."""
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize

    def copy(self, source: slice, target: slice) -> None:
        """Copy slots in every layer."""
        for tensor in (*self.keys, *self.values):
            tensor[:, target] = tensor[:, source]


@dataclass(frozen=True, slots=True)
class Part:
    """One stream's share of a step.

    Attributes:
        rows: Its new tokens among the T of the step.
        slots: Where all its tokens are in the cache, up to its last new one: a slice if side by side.
        num_before: Tokens in the cache before the new ones.
    """

    rows: slice
    slots: slice | Tensor
    num_before: int


class PagedAttention:
    """Stores the new keys and values of one step, then attends stream by stream."""

    def __init__(self, cache: KVCache, *, new_slots_T: Tensor, parts: Sequence[Part]) -> None:
        """Take the plan of one step."""
        self._cache = cache
        self._new_slots_T = new_slots_T
        self._parts = parts

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        """Return the attended values, [T, H * d]."""
        keys_KSd, values_KSd = self._cache.keys[layer], self._cache.values[layer]
        keys_KSd.index_copy_(1, self._new_slots_T, k_TKd.transpose(0, 1))
        values_KSd.index_copy_(1, self._new_slots_T, v_TKd.transpose(0, 1))
        out_THd = torch.empty_like(q_THd)
        for part in self._parts:
            k_KNd, v_KNd = keys_KSd[:, part.slots], values_KSd[:, part.slots]
            q_tHd, out_tHd = q_THd[part.rows], out_THd[part.rows]
            for start in range(0, len(q_tHd), _MAX_ROWS):
                rows = slice(start, start + _MAX_ROWS)
                seen = part.num_before + min(rows.stop, len(q_tHd))
                out_tHd[rows] = attend(q_tHd[rows], k_KNd[:, :seen], v_KNd[:, :seen])
        return out_THd.flatten(1)


def attend(q_tHd: Tensor, k_KNd: Tensor, v_KNd: Tensor) -> Tensor:
    """Attend causally: the t queries belong to the last t of the N keys. Returns [t, H, d].

    Query heads that share a key head are folded into rows: two to three times faster than grouped-query SDPA on CPU.
    """
    num_new, num_heads, head_dim = q_tHd.shape
    num_kv_heads, num_seen = k_KNd.shape[:2]
    q_Krd = q_tHd.view(num_new, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3).reshape(num_kv_heads, -1, head_dim)
    scores_KrN = torch.bmm(q_Krd, k_KNd.transpose(1, 2)).mul_(head_dim**-0.5)
    if num_new > 1:
        hidden_tt = torch.ones(num_new, num_new, dtype=torch.bool, device=q_tHd.device).triu(1)
        last = scores_KrN.view(num_kv_heads, -1, num_new, num_seen)[..., num_seen - num_new :]
        last.masked_fill_(hidden_tt, float("-inf"))
    out_Krd = torch.bmm(scores_KrN.softmax(dim=-1), v_KNd)
    return out_Krd.view(num_kv_heads, -1, num_new, head_dim).permute(2, 0, 1, 3).reshape(num_new, num_heads, head_dim)
