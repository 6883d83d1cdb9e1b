"""The tokens of a sequence, of which a cache holds the first ones."""

from collections.abc import Sequence


class CachedTokens:
    """Tokens of one sequence; those that are not in the cache are processed when the next logits are asked for."""

    def __init__(self, ids: Sequence[int]) -> None:
        """Start with some tokens, none of them processed."""
        self._ids = list(ids)
        self._num_cached = 0

    @property
    def length(self) -> int:
        """Tokens so far, processed or not."""
        return len(self._ids)

    def read(self, ids: Sequence[int]) -> None:
        """Append tokens."""
        self._ids += ids

    def truncate(self, length: int) -> None:
        """Remove tokens from `length` on."""
        del self._ids[length:]
        self._num_cached = min(self._num_cached, length)
