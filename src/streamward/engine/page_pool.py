"""Which pages of the KV cache are free, shared or taken."""

import re
from collections.abc import Sequence

from streamward.errors import OverloadedError

_FREE, _TAKEN = 1, 0
_FREE_RUN = re.compile(b"\x01+")
_LEAST_TOUCHED = 32  # pages taken into use together


class PagePool:
    """Hands out pages of the first part of the cache, which grows only when it is full.

    The system gives memory for what is touched and never takes it back.
    """

    def __init__(self, num_pages: int, *, side_by_side: bool) -> None:
        """Start with every page free.

        Args:
            num_pages: Of the cache.
            side_by_side: Whether a stream's pages should lie side by side where possible: attention by torch's
                operations then needs no copy. A new stream starts in the middle of the longest free run, which leaves
                it and its neighbours room to grow. Else it gets the first free page, which is found faster.
        """
        self._side_by_side = side_by_side
        self._is_free = bytearray([_FREE]) * num_pages
        self._num_users = [0] * num_pages
        self._num_touched = 0  # pages from here on were never handed out
        self.num_free = num_pages

    def take(self, count: int, *, after: int | None) -> list[int]:
        """Take pages, following page `after` where those are free.

        Raises:
            OverloadedError: Fewer pages are free. None was taken.
        """
        if count > self.num_free:
            raise OverloadedError(f"the KV cache has {self.num_free} free pages; {count} are needed")
        pages: list[int] = []
        for left in range(count, 0, -1):
            after = self._next(after, left)
            self._is_free[after] = _TAKEN
            self._num_users[after] = 1
            self.num_free -= 1
            pages.append(after)
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Count one more user of each page."""
        for page in pages:
            self._num_users[page] += 1

    def num_users(self, page: int) -> int:
        """Return how many streams read a page."""
        return self._num_users[page]

    def release(self, pages: Sequence[int]) -> None:
        """Count one user less of each page; the last one frees it."""
        for page in pages:
            self._num_users[page] -= 1
            if self._num_users[page] == 0:
                self._is_free[page] = _FREE
                self.num_free += 1

    def clear(self) -> None:
        """Free every page, whoever used it."""
        self._is_free[:] = bytearray([_FREE]) * len(self._is_free)
        self._num_users[:] = [0] * len(self._num_users)
        self.num_free = len(self._is_free)

    def _next(self, after: int | None, count: int) -> int:
        if self.num_free == len(self._is_free) - self._num_touched:
            self._touch(count)
        if not self._side_by_side:
            return self._is_free.find(_FREE, 0, self._num_touched)
        if after is not None and after + 1 < self._num_touched and self._is_free[after + 1]:
            return after + 1
        runs = _FREE_RUN.finditer(self._is_free, 0, self._num_touched)
        start, end = max((run.span() for run in runs), key=lambda span: span[1] - span[0])
        if end - start == self._num_touched:
            return start
        return max(start, min((start + end) // 2, end - count))

    def _touch(self, count: int) -> None:
        """Take more of the cache into use."""
        num_more = max(count, _LEAST_TOUCHED, self._num_touched // 4)
        self._num_touched = min(len(self._is_free), self._num_touched + num_more)
