"""Gives sequences pages of the KV cache, evicts idle sequences and copies shared pages before they are written."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from streamward.engine.page_pool import PagePool
from streamward.engine.sequence import TokenSequence
from streamward.errors import OverloadedError


class KVCacheManager:
    """Block manager of a paged KV cache (Kwon et al., PagedAttention, arXiv 2309.06180)."""

    def __init__(self, pool: PagePool, *, page_tokens: int, copy_page: Callable[[int, int], None]) -> None:
        """Take over a pool.

        Args:
            pool: All pages of the cache.
            page_tokens: Tokens of one page.
            copy_page: Copies a page in every layer, given source and target.
        """
        self._pool = pool
        self._page_tokens = page_tokens
        self._copy_page = copy_page

    @property
    def num_free(self) -> int:
        """Pages that no sequence refers to."""
        return self._pool.num_free

    def reserve(self, sequence: TokenSequence, length: int, sequences: Iterable[TokenSequence]) -> None:
        """Give a sequence pages for `length` tokens; the page that is written next becomes its own if it is shared.

        Args:
            sequence: Gets the pages.
            length: Tokens, cached ones included.
            sequences: All sequences; those without queued tokens may be evicted, the longest unused first.

        Raises:
            OverloadedError: Even with every idle sequence evicted there are not enough pages. Nothing has changed.
        """
        self._make_room(sequence, length, sequences)
        index, num_kept = divmod(sequence.num_cached, self._page_tokens)
        if num_kept and self._pool.num_users(sequence.pages[index]) > 1:
            shared = sequence.pages[index]
            (own,) = self._pool.take(1, after=sequence.pages[index - 1] if index else None)
            self._copy_page(shared, own)
            self._pool.release([shared])
            sequence.pages[index] = own
        missing = self._pages_for(length) - len(sequence.pages)
        sequence.pages += self._pool.take(missing, after=sequence.pages[-1] if sequence.pages else None)

    def trim(self, sequence: TokenSequence) -> None:
        """Free the pages behind a sequence's last token; queued tokens keep their reserved pages."""
        kept = self._pages_for(len(sequence.token_ids) if sequence.num_queued else sequence.num_cached)
        self._pool.release(sequence.pages[kept:])
        del sequence.pages[kept:]

    def share(self, sequence: TokenSequence) -> None:
        """Count one more user of a sequence's pages."""
        self._pool.share(sequence.pages)

    def free(self, sequence: TokenSequence) -> None:
        """Free a sequence's pages."""
        self._pool.release(sequence.evict())

    def clear(self) -> None:
        """Free every page, whoever used it."""
        self._pool.clear()

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._page_tokens)

    def _make_room(self, sequence: TokenSequence, length: int, sequences: Iterable[TokenSequence]) -> None:
        if self._num_missing(sequence, length) <= self._pool.num_free:
            return
        idle = [each for each in sequences if each.pages and not each.num_queued and each is not sequence]
        users = Counter(page for each in idle for page in each.pages)
        num_evictable = sum(self._pool.num_users(page) == count for page, count in users.items())
        needed = self._num_missing(sequence, length, evicted=users)
        if needed > self._pool.num_free + num_evictable:
            raise OverloadedError(
                f"the KV cache has {self._pool.num_free} free pages and {num_evictable} that idle streams hold;"
                f" {needed} are needed; try again later"
            )
        for other in sorted(idle, key=lambda each: each.last_turn):
            self.free(other)
            if self._num_missing(sequence, length) <= self._pool.num_free:
                return

    def _num_missing(self, sequence: TokenSequence, length: int, *, evicted: Mapping[int, int] | None = None) -> int:
        """Count the pages that `reserve` allocates, if the users counted in `evicted` were gone."""
        missing = self._pages_for(length) - len(sequence.pages)
        index, num_kept = divmod(sequence.num_cached, self._page_tokens)
        if num_kept:
            page = sequence.pages[index]
            missing += self._pool.num_users(page) - (evicted or {}).get(page, 0) > 1
        return missing
