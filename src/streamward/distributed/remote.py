"""Streams whose cache is elsewhere: keeps what each was given, and gives it again to whoever takes it over."""

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streamward.distributed.wire import Description, ReadReply, ReadRequest
from streamward.engine.outputs import StepOutput
from streamward.errors import ContextLengthError, OverloadedError, StreamClosedError, StreamwardError
from streamward.guard_call import current_call
from streamward.model.guard_config import GuardConfig
from streamward.moderation.health import GuardHealth, ReadClock
from streamward.moderation.token_scorer import Segment, TokenScorer
from streamward.schema import Side

logger = logging.getLogger(__name__)

_PAUSE_S = 0.05
_MAX_PAUSE_S = 1.0


class ReplicaLostError(StreamwardError):
    """A replica did not answer, and will not; what it was asked may be asked another."""


class ReplicaSet(Protocol):
    """Replicas of one guard, wherever they are."""

    def read(self, request: ReadRequest, *, replica: str | None, timeout_s: float) -> ReadReply:
        """Have tokens read by a certain replica while it is there, else by any.

        Raises:
            ReplicaLostError: The replica was lost on the way.
            OverloadedError: Nobody answered in time, or too many wait.
        """
        ...

    def forget(self, stream: str, *, replica: str) -> None:
        """Tell a replica that a stream is over; nobody waits, and it may fail."""
        ...

    def close(self) -> None:
        """Let go of the replicas."""
        ...


@dataclass(slots=True)
class _Placed:
    """A stream and where its cache is.

    Attributes:
        ids: Tokens that were read.
        replica: Who has them; None: nobody, or nobody knows.
        name: Name of the stream at that replica.
        owner: For whom it is read.
        is_open: Whether it was not closed.
    """

    ids: list[int] = field(default_factory=list)
    replica: str | None = None
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    owner: str | None = None
    is_open: bool = True

    def leave(self) -> None:
        """Forget where the cache was. The next replica gets everything, under a name that nobody has seen."""
        self.replica = None
        self.name = uuid.uuid4().hex

    def request(self, segments: Sequence[Segment]) -> ReadRequest:
        """Ask for new tokens, and for those before where they are not in a cache."""
        if self.replica is None and self.ids:
            return ReadRequest(self.name, 0, [(list(self.ids), None), *segments], self.owner)
        return ReadRequest(self.name, len(self.ids), segments, self.owner)


class RemoteTokenScorer(TokenScorer):
    """Does what an `EngineWorker` does, with the engines of a set of replicas. One read of a stream at a time.

    A stream stays with the replica that has its cache. When that one is drained or dies, the next read goes to another
    with all tokens before as context; it returns when the new tokens are judged, and not before.
    """

    def __init__(
        self,
        replica_set: ReplicaSet,
        description: Description,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take over a set of replicas.

        Args:
            replica_set: The replicas; closed with the driver.
            description: Description of their guard.
            timeout_s: For one read, hand-overs included.
            clock: Seconds that only grow.
            pause: Waits so many seconds, between tries.
        """
        self._replica_set = replica_set
        self._description = description
        self._timeout_s = timeout_s
        self._clock = clock
        self._pause = pause
        self._streams: dict[int, _Placed] = {}
        self._next_id = itertools.count(1)
        self._num_handovers = 0
        self._lock = threading.Lock()
        self._is_closed = False
        self._reads = ReadClock(clock)

    @property
    def guard_config(self) -> GuardConfig:
        """Labels and thresholds of the guard."""
        config: GuardConfig = self._description.guard_config
        return config

    @property
    def max_stream_tokens(self) -> int:
        """Most tokens of one stream."""
        return self._description.max_stream_tokens

    @property
    def num_streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    @property
    def num_handovers(self) -> int:
        """Times a stream went on at another replica, or was read again by the same."""
        return self._num_handovers

    def open(self) -> int:
        """Open a stream; a replica is chosen when it is first read.

        Raises:
            StreamClosedError: The driver was closed.
        """
        with self._lock:
            if self._is_closed:
                raise StreamClosedError("the moderator is closed; load the guard again")
            stream_id = next(self._next_id)
            self._streams[stream_id] = _Placed(owner=current_call().owner)
            return stream_id

    def close_stream(self, stream_id: int) -> None:
        """Close a stream; its replica is told."""
        with self._lock:
            placed = self._streams.pop(stream_id, None)
        if placed is not None:
            self._leave(placed)

    def score(self, stream_id: int, token_ids: Sequence[int], *, head: Side | None) -> list[StepOutput]:
        """Add tokens to a stream and wait until they are read; see `EngineWorker.read`.

        Raises:
            OverloadedError: There is no room, or no replica answered in time. The stream is as it was.
            ContextLengthError: The stream would exceed the engine's limit.
            InputError: An id is out of range.
            StreamClosedError: The stream was closed.
            CallCancelledError: The current call was cancelled.
        """
        return self.score_segments(stream_id, [(token_ids, head)])

    def score_segments(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        """Likewise for successive tokens that different heads judge, in one request."""
        new = [(list(token_ids), side) for token_ids, side in segments if token_ids]
        if not new:
            return []
        placed = self._placed(stream_id)
        length = len(placed.ids) + sum(len(token_ids) for token_ids, _ in new)
        if length > self.max_stream_tokens:
            raise ContextLengthError(f"the stream would have {length} tokens; at most {self.max_stream_tokens} fit")
        with self._reads.reading():
            reply = self._ask(placed, new)
        placed.ids += itertools.chain.from_iterable(token_ids for token_ids, _ in new)
        return [
            StepOutput(
                stream_id,
                output.position,
                output.side,
                output.risk_probs,
                output.category_probs,
            )
            for output in reply.outputs
        ]

    def truncate(self, stream_id: int, length: int) -> None:
        """Drop a stream's tokens from `length` on; its replica does so with the next read."""
        del self._placed(stream_id).ids[length:]

    def health(self) -> GuardHealth:
        """Say since when the oldest read waits for a replica."""
        return self._reads.health()

    def close(self) -> None:
        """Close all streams, and let go of the replicas. May be called again."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            streams, self._streams = self._streams, {}
        for placed in streams.values():
            self._leave(placed)
        if not was_closed:
            self._replica_set.close()

    def _leave(self, placed: _Placed) -> None:
        placed.is_open = False
        if placed.replica is not None:
            self._replica_set.forget(placed.name, replica=placed.replica)

    def _ask(self, placed: _Placed, segments: Sequence[Segment]) -> ReadReply:
        """Have tokens judged, by one replica after the other if need be."""
        start = self._clock()
        pause_s = _PAUSE_S
        num_lost = 0
        while (left_s := start + self._timeout_s - self._clock()) > 0:
            current_call().check()
            if not placed.is_open:
                raise StreamClosedError("the stream was closed while its tokens were read")
            request = placed.request(segments)
            try:
                reply = self._replica_set.read(request, replica=placed.replica, timeout_s=left_s)
            except ReplicaLostError:
                num_lost += 1
                placed.leave()
                if num_lost > 1:  # the first loss may be of a replica that died long ago
                    self._pause(min(pause_s, left_s))
                    pause_s = min(2 * pause_s, _MAX_PAUSE_S)
                continue
            if reply.is_unknown:
                placed.leave()
                continue
            if reply.error is not None:
                self._give_up(placed, reply)
                raise reply.error
            if request.start == 0 and placed.ids:
                self._count_handover(placed, seconds=self._clock() - start)
            placed.replica = reply.replica
            return reply
        raise OverloadedError(f"no replica judged the text within {self._timeout_s:g} s; try again later")

    def _give_up(self, placed: _Placed, reply: ReadReply) -> None:
        """Leave nothing behind at a replica that could not take a stream over."""
        if placed.replica is None:
            self._replica_set.forget(placed.name, replica=reply.replica)
            placed.leave()

    def _count_handover(self, placed: _Placed, *, seconds: float) -> None:
        with self._lock:
            self._num_handovers += 1
        logger.info(
            "stream handed over", extra={"num_tokens": len(placed.ids), "duration_ms": round(seconds * 1000, 1)}
        )

    def _placed(self, stream_id: int) -> _Placed:
        try:
            return self._streams[stream_id]
        except KeyError:
            raise StreamClosedError(f"stream {stream_id} was closed or never opened") from None
