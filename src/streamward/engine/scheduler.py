"""Which tokens one step reads: fair between owners first, then between the streams of each."""

from collections.abc import Iterator, Sequence

from streamward.engine.config import EngineConfig
from streamward.engine.token_sequence import TokenSequence

SHORT_TOKENS = 32
"""A stream with at most so many tokens waiting is being appended to; one with more is a text being read in."""


_RECENT_STEPS = 16  # somebody who appended within so many steps will soon append again


class Scheduler:
    """Chooses what a step reads.

    Short appends come first. What is left goes to long texts, `max_long_tokens` at most while somebody waits for a
    short append, or is about to: who has just made one, and has no long text himself, should find a short step under
    way when he makes the next. Each owner gets an equal part of both as far as he asks for one, so that an owner of
    fifty long texts slows the others down no more than an owner of one.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Start without a memory of who appended."""
        self._most = config.max_batch_tokens
        self._most_long = config.max_long_tokens
        self._num_steps = 0
        self._appended: dict[str | None, int] = {}  # owners of short appends, and the step of the last one

    def schedule(self, streams: Sequence[TokenSequence]) -> list[tuple[TokenSequence, int]]:
        """Return how many of its waiting tokens each stream may have read in the next step; none are left out.

        Args:
            streams: Those with tokens to read, the one that waited longest first.
        """
        owned: dict[str | None, list[int]] = {}
        for index, stream in enumerate(streams):
            owned.setdefault(stream.owner, []).append(index)
        demands = [stream.num_unread for stream in streams]
        short = [sum(demands[index] for index in own if demands[index] <= SHORT_TOKENS) for own in owned.values()]
        long = [sum(demands[index] for index in own if demands[index] > SHORT_TOKENS) for own in owned.values()]
        self._note([owner for owner, total in zip(owned, short, strict=True) if total])
        readers = {owner for owner, total in zip(owned, long, strict=True) if total}
        is_awaited = any(short) or bool(self._appended.keys() - readers)
        long = shares(long, total=self._most_long if is_awaited else self._most)
        totals = shares([sum(both) for both in zip(short, long, strict=True)], total=self._most)
        granted = [0] * len(streams)
        for own, total in zip(owned.values(), totals, strict=True):
            for index, count in _divided(own, demands, total):
                granted[index] = count
        return [(stream, count) for stream, count in zip(streams, granted, strict=True) if count]

    def _note(self, owners: Sequence[str | None]) -> None:
        self._num_steps += 1
        self._appended |= dict.fromkeys(owners, self._num_steps)
        oldest = self._num_steps - _RECENT_STEPS
        self._appended = {owner: step for owner, step in self._appended.items() if step > oldest}


def _divided(own: Sequence[int], demands: Sequence[int], total: int) -> Iterator[tuple[int, int]]:
    """Divide one owner's tokens between his streams, short appends first."""
    for is_short in (True, False):
        members = [index for index in own if (demands[index] <= SHORT_TOKENS) is is_short]
        for index, count in zip(members, shares([demands[each] for each in members], total=total), strict=True):
            yield index, count
            total -= count


def shares(demands: Sequence[int], *, total: int) -> list[int]:
    """Divide a number of tokens: nobody gets more than he asks for, and what he leaves goes to the others.

    Of more than `total` the first in line get one token each, so callers put those that waited longest first.
    """
    granted = [0] * len(demands)
    in_line = [index for index, demand in enumerate(demands) if demand][:total]
    waiting = sorted(in_line, key=lambda index: demands[index])
    for rank, index in enumerate(waiting):
        granted[index] = min(demands[index], total // (len(waiting) - rank))
        total -= granted[index]
    return granted
