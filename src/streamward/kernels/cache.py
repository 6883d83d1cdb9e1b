"""The structures that tell the kernels about sequences and the cache; see csrc/cache.h."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 64
"""Query rows of one item of attention: new tokens times the query heads that share a key head."""
_MAX_HEAD_DIM, _CACHE_BLOCK, _PART, _GROUP = 256, 16, 32, 64


@dataclass(frozen=True, slots=True)
class SequenceSlice:
    """One sequence's share of a step.

    Attributes:
        count: Its new tokens.
        num_seen: Its tokens in the cache, the new ones among them.
        pages: Where they are.
    """

    count: int
    num_seen: int
    pages: Sequence[int]


def cache_token_bytes(*, num_kv_heads: int, head_dim: int, is_int8: bool) -> int:
    """Return what a token takes in the cache of one layer.

    Args:
        num_kv_heads: Key heads.
        head_dim: Size of a head.
        is_int8: Whether keys and values have 8 bits.
    """
    exact = 4 + 2 * (head_dim // _PART + 1)
    return num_kv_heads * (2 * head_dim + exact if is_int8 else 4 * head_dim)


def decoder_page_bytes(*, num_layers: int, num_kv_heads: int, head_dim: int, page_tokens: int, is_int8: bool) -> int:
    """Return what a page of the cache takes, of all layers."""
    token_bytes = cache_token_bytes(num_kv_heads=num_kv_heads, head_dim=head_dim, is_int8=is_int8)
    return num_layers * page_tokens * token_bytes


def is_supported(*, head_dim: int, group: int, page_tokens: int) -> bool:
    """Return whether attention takes a decoder's shape.

    Args:
        head_dim: Size of a head.
        group: Query heads that share a key head.
        page_tokens: Tokens of a page of the cache.
    """
    has_whole_blocks = page_tokens % _CACHE_BLOCK == 0
    return has_whole_blocks and head_dim % _GROUP == 0 and head_dim <= _MAX_HEAD_DIM and group <= MAX_ROWS


def items_of(parts: Sequence[SequenceSlice], *, group: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Cut long chunks, list the costliest first so that threads end together; and put all pages in one table."""
    max_tokens = MAX_ROWS // group
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
