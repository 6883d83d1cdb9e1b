"""One stream's tokens and what is known of them."""

from dataclasses import dataclass, field

from streamward.schema import Side


@dataclass(slots=True)
class TokenSequence:
    """Tokens of one conversation, in the order they came.

    Attributes:
        owner: Whose it is; None for everybody who states none.
        token_ids: Every token, judged or not; kept so that an evicted stream can be read again.
        sides: Whose heads judge each token; None for context.
        num_cached: Tokens whose keys and values are in the cache.
        num_judged: Tokens that a step has read at least once; their verdicts were given.
        pages: Pages in the cache, in order; they hold `num_cached` tokens and have room for all while some wait.
        last_turn: Number of its last turn in a step, counted over all streams; the lowest waited longest.
    """

    id: int
    owner: str | None = None
    token_ids: list[int] = field(default_factory=list)
    sides: list[Side | None] = field(default_factory=list)
    num_cached: int = 0
    num_judged: int = 0
    pages: list[int] = field(default_factory=list)
    last_turn: int = 0

    @property
    def num_unjudged(self) -> int:
        """Tokens that wait for a step."""
        return len(self.token_ids) - self.num_judged

    @property
    def num_unread(self) -> int:
        """Tokens the next steps must read, the evicted ones among them; 0 while none waits for a verdict."""
        return len(self.token_ids) - self.num_cached if self.num_unjudged else 0

    def advance(self, count: int) -> int:
        """Take note that a step has read the next tokens; return how many it read for the first time."""
        self.num_cached += count
        num_new = max(0, self.num_cached - self.num_judged)
        self.num_judged += num_new
        return num_new

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on; the pages are the caller's to free."""
        del self.token_ids[length:], self.sides[length:]
        self.num_cached = min(self.num_cached, length)
        self.num_judged = min(self.num_judged, length)

    def forget_unjudged(self) -> None:
        """Drop the tokens that wait, and what the cache holds of the others."""
        del self.token_ids[self.num_judged :], self.sides[self.num_judged :]
        self.num_cached, self.pages = 0, []

    def slots(self, start: int, end: int, *, page_tokens: int) -> list[int]:
        """Return where the tokens from start to end are in the cache."""
        return [
            self.pages[position // page_tokens] * page_tokens + position % page_tokens for position in range(start, end)
        ]

    def has_adjacent_pages(self) -> bool:
        """Whether the pages lie side by side."""
        return self.pages == list(range(self.pages[0], self.pages[0] + len(self.pages)))

    def judged_runs(self, start: int, end: int) -> list[tuple[int, int, Side]]:
        """Return runs of successive tokens that the same heads judge for the first time."""
        runs: list[tuple[int, int, Side]] = []
        for position in range(max(start, self.num_judged), end):
            side = self.sides[position]
            if side is None:
                continue
            if runs and runs[-1][1] == position and runs[-1][2] is side:
                runs[-1] = (runs[-1][0], position + 1, side)
            else:
                runs.append((position, position + 1, side))
        return runs
