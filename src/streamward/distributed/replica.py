"""One replica: an engine, and the streams whose cache it holds."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from streamward.distributed.wire import Description, Output, ReadReply, ReadRequest
from streamward.engine.engine import Engine
from streamward.errors import StreamwardError
from streamward.guard_call import GuardCall
from streamward.moderation.engine_worker import EngineWorker

_SWEEP_S = 1.0


@dataclass(slots=True)
class _Held:
    """A stream in the cache.

    Attributes:
        length: Tokens that were read.
        used_at: When it was last asked for.
        lock: Held while it is read.
    """

    stream_id: int
    length: int = 0
    used_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class GuardReplica:
    """Reads the tokens of many streams, which it may forget at any time: who asks keeps what it gave. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        *,
        guard: str,
        name: str,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over an engine.

        Args:
            engine: Owned by the replica from now on.
            guard: What the guard is called.
            name: Name of this replica, different from every other that there is and was.
            idle_s: A stream not asked for so long is forgotten.
            clock: Seconds that only grow.
        """
        self._scorer = EngineWorker(engine)
        self._guard = guard
        self._name = name
        self._idle_s = idle_s
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()  # guards the dictionary
        self._swept_at = clock()

    @property
    def num_streams(self) -> int:
        """Streams that are not forgotten."""
        return len(self._held)

    def describe(self) -> Description:
        """Say which guard this is."""
        return Description(self._guard, self._scorer.guard_config, self._scorer.max_stream_tokens)

    def read(self, request: ReadRequest) -> ReadReply:
        """Read new tokens of a stream. Errors of ours are in the reply, so that nobody logs them on the way."""
        self._sweep()
        try:
            held = self._find(request)
            if held is None:
                return ReadReply(self._name, is_unknown=True)
            with held.lock:
                return self._read(held, request)
        except StreamwardError as error:
            return ReadReply(self._name, error=error)

    def forget(self, stream: str) -> None:
        """Drop a stream; one that is not here is no error."""
        with self._lock:
            held = self._held.pop(stream, None)
        if held is not None:
            self._scorer.close_stream(held.stream_id)

    def _find(self, request: ReadRequest) -> _Held | None:
        """Return the stream, a new one if it begins here; None if it is not here, or not far enough."""
        held = self._held.get(request.stream)
        if held is None and request.start == 0:
            with GuardCall(request.owner).current():
                held = _Held(self._scorer.open())
            with self._lock:
                self._held[request.stream] = held
        if held is not None:
            held.used_at = self._clock()
        return held

    def _read(self, held: _Held, request: ReadRequest) -> ReadReply:
        if held.length < request.start:
            return ReadReply(self._name, is_unknown=True)
        if held.length > request.start:
            self._scorer.truncate(held.stream_id, request.start)
            held.length = request.start
        outputs = self._scorer.score_segments(held.stream_id, request.segments)
        held.length += sum(len(token_ids) for token_ids, _ in request.segments)
        return ReadReply(self._name, [Output.of(output) for output in outputs])

    def _sweep(self) -> None:
        """Forget streams that nobody asks for any more, because their service has died or they went elsewhere."""
        now = self._clock()
        with self._lock:
            if now - self._swept_at < min(_SWEEP_S, self._idle_s):
                return
            self._swept_at = now
            old = [
                name
                for name, held in self._held.items()
                if now - held.used_at > self._idle_s and not held.lock.locked()
            ]
        for name in old:
            self.forget(name)
