"""Order in which an engine reads the owners' tokens, and how many: its queue and its cache are shared fairly."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, zip_longest

from streamward.engine.engine import Engine
from streamward.engine.scheduler import SHORT_TOKENS
from streamward.errors import StreamClosedError
from streamward.moderation.waiting import WaitingRead


def in_turn(reads: Iterable[WaitingRead]) -> list[WaitingRead]:
    """Order reads: owners take turns; of each, short appends come before long texts, else the first to come first."""
    by_owner: dict[str | None, list[WaitingRead]] = {}
    for read in reads:
        by_owner.setdefault(read.owner, []).append(read)
    lines = [sorted(line, key=is_long) for line in by_owner.values()]
    return [read for read in chain.from_iterable(zip_longest(*lines)) if read is not None]


def is_long(read: WaitingRead) -> bool:
    """Return true if what is left of a read is more than a short append."""
    return read.num_unqueued > SHORT_TOKENS


class QueueShares:
    """The number of tokens that each read may queue before one step.

    Of the long texts of an owner no more is queued than one step could process: the next ones would only hold pages of
    the cache while they wait. Short appends are always queued, as far as the engine's queue has room.
    """

    def __init__(self, engine: Engine, reads: Sequence[WaitingRead]) -> None:
        """Count what is queued.

        Args:
            engine: Has the queue.
            reads: All that have been begun.
        """
        self._max_batch_tokens = engine.config.max_batch_tokens
        self._room = engine.config.max_queued_tokens - engine.num_queued_tokens
        self._queued: dict[str | None, int] = {}
        for read in reads if any(map(is_long, reads)) else ():  # otherwise nobody asks
            if read.length is not None:
                with suppress(StreamClosedError):  # the error is raised when the read's turn comes
                    self.note(read, engine.num_queued(read.stream_id), is_new=False)

    def of(self, read: WaitingRead) -> int:
        """Return how many tokens a read with none in the queue may queue."""
        if is_long(read) and self._queued.get(read.owner, 0) >= self._max_batch_tokens:
            return 0
        return min(self._room, self._max_batch_tokens)

    def note(self, read: WaitingRead, count: int, *, is_new: bool = True) -> None:
        """Note that a read has queued tokens."""
        self._queued[read.owner] = self._queued.get(read.owner, 0) + count
        if is_new:
            self._room -= count
