"""Gives sequences pages of the KV cache, shared ones where they begin alike, which are copied before they change."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from streamward.engine.page_pool import PagePool
from streamward.engine.prefix_index import PrefixIndex, PrefixKey
from streamward.engine.sequence import TokenSequence
from streamward.errors import OverloadedError


class KVCacheManager:
    """Block manager of a paged KV cache (Kwon et al., PagedAttention, arXiv 2309.06180).

    A full page is known by all tokens up to its end. A sequence of the same owner whose next tokens are the same takes
    the page over instead of computing it, also after the sequence that computed it was closed, for as long as nobody
    needed the page for something else.
    """

    def __init__(
        self,
        num_pages: int,
        *,
        page_tokens: int,
        copy_page: Callable[[int, int], None],
        side_by_side: bool,
        shares_prefixes: bool,
    ) -> None:
        """Start with every page free.

        Args:
            num_pages: Pages of the cache.
            page_tokens: Tokens of one page.
            copy_page: Copies a page in every layer, given source and target.
            side_by_side: Whether a sequence costs less when its pages are adjacent.
            shares_prefixes: Whether sequences with the same beginning share its pages.
        """
        self._index = PrefixIndex()
        self._pool = PagePool(num_pages, side_by_side=side_by_side, on_reuse=self._index.forget)
        self._page_tokens = page_tokens
        self._copy_page = copy_page
        self._shares_prefixes = shares_prefixes
        self.num_reused_tokens = 0
        """Tokens whose keys and values were found instead of computed."""
        self.num_prefix_hits = 0
        """Times that a sequence found some."""

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
        elif num_kept and sequence.pages[index] in self._index:  # it was full before the sequence was truncated
            self._index.forget(sequence.pages[index])
            self._pool.drop(sequence.pages[index])
        missing = self._pages_for(length) - len(sequence.pages)
        sequence.pages += self._pool.take(missing, after=sequence.pages[-1] if sequence.pages else None)

    def trim(self, sequence: TokenSequence) -> None:
        """Free the pages behind a sequence's last token; queued tokens keep their reserved pages."""
        kept = self._pages_for(len(sequence.token_ids) if sequence.num_queued else sequence.num_cached)
        self._pool.release(reversed(sequence.pages[kept:]))
        del sequence.pages[kept:], sequence.prefix_ids[sequence.num_cached // self._page_tokens :]

    def adopt(self, sequence: TokenSequence) -> int:
        """Give a sequence the pages that hold its next tokens already, as far as these are only context.

        Returns:
            How many of its queued tokens need no step.
        """
        num_cached, num_queued = sequence.num_cached, 0
        while (key := self._next_key(sequence)) is not None and (found := self._index.find(key)) is not None:
            index = len(sequence.prefix_ids)
            self._pool.share([found.page])
            self._pool.release(sequence.pages[index : index + 1])  # reserved, and not written
            sequence.pages[index : index + 1] = [found.page]
            sequence.prefix_ids.append(found.prefix_id)
            num_queued += sequence.advance(self._page_tokens)
        self.num_reused_tokens += sequence.num_cached - num_cached
        self.num_prefix_hits += sequence.num_cached > num_cached
        return num_queued

    def note_computed(self, sequence: TokenSequence) -> None:
        """Let others find the pages of a sequence that a step has filled; of two with the same contents one is kept."""
        if not self._shares_prefixes:
            return
        for index in range(len(sequence.prefix_ids), sequence.num_cached // self._page_tokens):
            page = sequence.pages[index]
            found = self._index.add(self._key(sequence, index), page)
            if found.page == page:
                self._pool.keep(page)
            else:
                self._pool.share([found.page])
                self._pool.release([page])
                sequence.pages[index] = found.page
            sequence.prefix_ids.append(found.prefix_id)

    def without_followers(self, pending: Sequence[TokenSequence]) -> list[TokenSequence]:
        """Leave out sequences whose next page another one is about to fill; they adopt it after that.

        Args:
            pending: Sequences with tokens to process; the first of those that begin alike goes on.
        """
        if not self._shares_prefixes or len(pending) < 2:
            return list(pending)
        pages = [self._filled_page(sequence) for sequence in pending]
        filled = {
            page for sequence, page in zip(pending, pages, strict=True) if sequence.num_cached % self._page_tokens
        }
        chosen = []
        for sequence, page in zip(pending, pages, strict=True):
            if page is None or page not in filled or self._next_key(sequence) is None:
                chosen.append(sequence)
                filled.add(page)
        return chosen

    def _next_key(self, sequence: TokenSequence) -> PrefixKey | None:
        """Return the contents of the page that a sequence needs next; None if it cannot be another's."""
        index, num_kept = divmod(sequence.num_cached, self._page_tokens)
        end = sequence.num_cached + self._page_tokens
        if num_kept or not self._shares_prefixes or not sequence.is_context(sequence.num_cached, end):
            return None
        return self._key(sequence, index)

    def _filled_page(self, sequence: TokenSequence) -> PrefixKey | None:
        """Return the contents of the first page that a sequence's pending tokens fill; None if they fill none."""
        index = sequence.num_cached // self._page_tokens
        return self._key(sequence, index) if len(sequence.token_ids) >= (index + 1) * self._page_tokens else None

    def _key(self, sequence: TokenSequence, index: int) -> PrefixKey:
        start = index * self._page_tokens
        tokens = tuple(sequence.token_ids[start : start + self._page_tokens])
        return (sequence.prefix_ids[index - 1] if index else sequence.owner), tokens

    def share(self, sequence: TokenSequence) -> None:
        """Count one more user of a sequence's pages."""
        self._pool.share(sequence.pages)

    def free(self, sequence: TokenSequence) -> None:
        """Free a sequence's pages."""
        self._pool.release(reversed(sequence.evict()))  # of what is kept, the end is given up first

    def clear(self) -> None:
        """Free every page, whoever used it, and forget what they hold."""
        self._pool.clear()
        self._index.clear()

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
