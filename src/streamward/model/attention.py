"""Causal attention of new tokens over cached ones, folded for short appends."""

# Shapes: t new tokens; N tokens so far, the new ones last; H query heads; K key/value heads; G = H / K; d head size.

import torch
from torch import Tensor

_MAX_ROWS = 128  # queries of a long chunk are taken in parts, so that scores stay in the CPU's cache


def attend(q_tHd: Tensor, k_KNd: Tensor, v_KNd: Tensor) -> Tensor:
    """Attend causally: the t queries belong to the last t of the N keys. Returns [t, H, d]."""
    num_new, num_before = len(q_tHd), k_KNd.shape[1] - len(q_tHd)
    if num_new <= _MAX_ROWS:
        return _attend_part(q_tHd, k_KNd, v_KNd)
    parts = []
    for start in range(0, num_new, _MAX_ROWS):
        part_tHd = q_tHd[start : start + _MAX_ROWS]
        seen = num_before + start + len(part_tHd)
        parts.append(_attend_part(part_tHd, k_KNd[:, :seen], v_KNd[:, :seen]))
    return torch.cat(parts)


def _attend_part(q_tHd: Tensor, k_KNd: Tensor, v_KNd: Tensor) -> Tensor:
    """Fold query heads that share a key head into rows: two to three times faster than grouped-query SDPA on CPU."""
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
