"""Keeps track of the pages (KV cache blocks) that are free, shared or in use."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable

from streamward.errors import OverloadedError

_FREE, _TAKEN, _KEPT = 1, 0, 2
_FREE_RUN = re.compile(b"\x01+")
_MIN_GROWTH = 32  # pages by which the used part of the cache grows at least


class PagePool:
    """Allocates pages with reference counts, from the first part of the cache, which grows only when it is full.

    The operating system provides memory for a page when it is first written and never takes it back, so memory follows
    the high-water mark. Free pages whose contents may be of use again are taken last, the longest unused first, but
    before the used part grows.
    """

    def __init__(
        self, num_pages: int, *, side_by_side: bool, on_reuse: Callable[[int], object] = lambda page: None
    ) -> None:
        """Start with every page free.

        Args:
            num_pages: Pages of the cache.
            side_by_side: Whether a sequence's pages should be adjacent where possible, because attention by torch's
                operations then needs no copy. A new sequence starts in the middle of the longest free run, which leaves
                it and its neighbours room to grow. Otherwise it gets the first free page, which is found faster.
            on_reuse: Is given each page that was kept and is taken for other contents.
        """
        self._on_reuse = on_reuse
        self._has_contents: set[int] = set()  # pages that are kept once they are free
        self._kept: OrderedDict[int, None] = OrderedDict()  # those that are, the longest unused first
        self._side_by_side = side_by_side
        self._is_free = bytearray([_FREE]) * num_pages
        self._num_users = [0] * num_pages
        self._high_water_mark = 0  # pages from here on were never handed out
        self.num_free = num_pages

    def take(self, count: int, *, after: int | None) -> list[int]:
        """Allocate pages, following page `after` where those are free.

        Raises:
            OverloadedError: Fewer pages are free. None was allocated.
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

    def share(self, pages: Iterable[int]) -> None:
        """Count one more user of each page, which has users or is kept."""
        for page in pages:
            if page in self._kept:
                del self._kept[page]
                self._is_free[page] = _TAKEN
                self.num_free -= 1
            self._num_users[page] += 1

    def keep(self, page: int) -> None:
        """Keep the contents of a page that is in use when it becomes free, until no other free page is left."""
        self._has_contents.add(page)

    def drop(self, page: int) -> None:
        """End `keep` for a page that is in use."""
        self._has_contents.discard(page)

    def num_users(self, page: int) -> int:
        """Return how many sequences refer to a page."""
        return self._num_users[page]

    def release(self, pages: Iterable[int]) -> None:
        """Count one user less of each page; a page without users is free."""
        for page in pages:
            self._num_users[page] -= 1
            if self._num_users[page] == 0:
                self.num_free += 1
                self._is_free[page] = _KEPT if page in self._has_contents else _FREE
                if page in self._has_contents:
                    self._kept[page] = None

    def clear(self) -> None:
        """Free every page, whoever used it."""
        self._is_free[:] = bytearray([_FREE]) * len(self._is_free)
        self._num_users[:] = [0] * len(self._num_users)
        self.num_free = len(self._is_free)
        self._has_contents.clear()
        self._kept.clear()

    def _next(self, after: int | None, count: int) -> int:
        if self.num_free - len(self._kept) == len(self._is_free) - self._high_water_mark:
            if self._kept:
                return self._reuse()
            self._grow(count)
        if not self._side_by_side:
            return self._is_free.find(_FREE, 0, self._high_water_mark)
        if after is not None and after + 1 < self._high_water_mark and self._is_free[after + 1] == _FREE:
            return after + 1
        runs = _FREE_RUN.finditer(self._is_free, 0, self._high_water_mark)
        start, end = max((run.span() for run in runs), key=lambda span: span[1] - span[0])
        if end - start == self._high_water_mark:
            return start
        return max(start, min((start + end) // 2, end - count))

    def _reuse(self) -> int:
        page, _ = self._kept.popitem(last=False)
        self._has_contents.discard(page)
        self._on_reuse(page)
        return page

    def _grow(self, count: int) -> None:
        num_more = max(count, _MIN_GROWTH, self._high_water_mark // 4)
        self._high_water_mark = min(len(self._is_free), self._high_water_mark + num_more)
