"""Finds pages of the KV cache by all tokens from the beginning of a sequence up to the page's end."""

import itertools
from typing import NamedTuple

PrefixKey = tuple[int | str | None, tuple[int, ...]]
"""The contents of a page: the prefix before it, and its own tokens. The prefix is the id of the page before, or, for a
first page, the owner: no owner can learn by timing what the texts of another begin with."""


class CachedPage(NamedTuple):
    """A page whose contents are known.

    Attributes:
        page: Where they are.
        prefix_id: Stands for all tokens up to the page's end; never given again to others.
    """

    page: int
    prefix_id: int


class PrefixIndex:
    """Full pages by their contents, which stay as they are for as long as a page is known here."""

    def __init__(self) -> None:
        """Know no page."""
        self._pages: dict[PrefixKey, CachedPage] = {}
        self._keys: dict[int, PrefixKey] = {}
        self._ids = itertools.count(1)

    def __contains__(self, page: int) -> bool:
        """Return true if the contents of a page are known."""
        return page in self._keys

    def find(self, key: PrefixKey) -> CachedPage | None:
        """Return the page with some contents."""
        return self._pages.get(key)

    def add(self, key: PrefixKey, page: int) -> CachedPage:
        """Note what a page holds; return the page that is known to hold it, which is an earlier one if there is any."""
        found = self._pages.get(key)
        if found is None:
            found = self._pages[key] = CachedPage(page, next(self._ids))
            self._keys[page] = key
        return found

    def forget(self, page: int) -> None:
        """Forget a page, whose contents will change. Pages behind it are not found any more: their prefix is gone."""
        key = self._keys.pop(page, None)
        if key is not None:
            del self._pages[key]

    def clear(self) -> None:
        """Forget every page."""
        self._pages.clear()
        self._keys.clear()
