"""The tokens of one stream, and how far they have been processed."""

from dataclasses import dataclass, field

from streamward.schema import Side


@dataclass(slots=True)
class TokenSequence:
    """Tokens of one conversation in order of arrival.

    Attributes:
        owner: Key that the sequence belongs to; the scheduler divides steps between owners. None is an owner too.
        token_ids: Every token, processed or not; kept so that an evicted sequence can be computed again.
        heads: Side whose heads score each token; None for context.
        num_cached: Tokens whose keys and values are in the cache.
        num_scored: Tokens that some step has processed; their scores have been returned.
        pages: Pages of the cache in order of position. They hold `num_cached` tokens, and while tokens are queued they
            have room for all of them.
        prefix_ids: For each page that is full, what stands for all tokens up to its end; see `prefix_index`.
        last_turn: Turn in which the sequence was last part of a step, counted over all sequences; the lowest has waited
            longest.
    """

    id: int
    owner: str | None = None
    token_ids: list[int] = field(default_factory=list)
    heads: list[Side | None] = field(default_factory=list)
    num_cached: int = 0
    num_scored: int = 0
    pages: list[int] = field(default_factory=list)
    prefix_ids: list[int] = field(default_factory=list)
    last_turn: int = 0

    @property
    def num_queued(self) -> int:
        """Tokens that no step has processed yet."""
        return len(self.token_ids) - self.num_scored

    @property
    def num_pending(self) -> int:
        """Tokens that the next steps must process, evicted ones included; 0 while no token is queued."""
        return len(self.token_ids) - self.num_cached if self.num_queued else 0

    def append(self, token_ids: list[int], head: Side | None) -> None:
        """Queue tokens that one side's heads score."""
        self.token_ids += token_ids
        self.heads += [head] * len(token_ids)

    def advance(self, count: int) -> int:
        """Record that a step has processed the next `count` tokens; return how many of them were queued."""
        self.num_cached += count
        num_new = max(0, self.num_cached - self.num_scored)
        self.num_scored += num_new
        return num_new

    def truncate(self, length: int) -> None:
        """Remove the tokens from `length` on; the caller frees the pages."""
        del self.token_ids[length:], self.heads[length:]
        self.num_cached = min(self.num_cached, length)
        self.num_scored = min(self.num_scored, length)

    def evict(self) -> list[int]:
        """Remove the sequence from the cache; return the pages, which the caller frees."""
        pages, self.pages, self.prefix_ids, self.num_cached = self.pages, [], [], 0
        return pages

    def drop_queued(self) -> None:
        """Remove the queued tokens and forget the cache's contents."""
        del self.token_ids[self.num_scored :], self.heads[self.num_scored :]
        self.num_cached, self.pages, self.prefix_ids = 0, [], []

    def copy_to(self, other: "TokenSequence") -> None:
        """Give another sequence the same tokens, state and pages; the caller counts the pages' users."""
        other.token_ids, other.heads, other.pages = list(self.token_ids), list(self.heads), list(self.pages)
        other.prefix_ids = list(self.prefix_ids)
        other.num_cached, other.num_scored, other.last_turn = self.num_cached, self.num_scored, self.last_turn

    def is_context(self, start: int, end: int) -> bool:
        """Return true if tokens exist and heads score none of them, or have done so already."""
        return end <= len(self.token_ids) and not any(self.heads[max(start, self.num_scored) : end])

    def runs_to_score(self, start: int, end: int) -> list[tuple[int, int, Side]]:
        """Return runs (start, end, side) of successive tokens that the same heads score for the first time."""
        runs: list[tuple[int, int, Side]] = []
        for position in range(max(start, self.num_scored), end):
            side = self.heads[position]
            if side is None:
                continue
            if runs and runs[-1][1] == position and runs[-1][2] is side:
                runs[-1] = (runs[-1][0], position + 1, side)
            else:
                runs.append((position, position + 1, side))
        return runs
