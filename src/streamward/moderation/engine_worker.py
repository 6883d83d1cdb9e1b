"""Runs one engine for many callers: one thread steps for all of them."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from streamward.engine.engine import Engine
from streamward.engine.outputs import StepOutput
from streamward.errors import GuardFailedError, OverloadedError, StreamClosedError, StreamwardError
from streamward.guard_call import current_call
from streamward.model.guard_config import GuardConfig
from streamward.moderation.coroutines import wait_for
from streamward.moderation.health import EngineStepError, GuardHealth
from streamward.moderation.read_order import QueueShares, in_turn
from streamward.moderation.token_scorer import PendingScore, Segment, TokenScorer
from streamward.moderation.waiting import WaitingRead, WorkerScore, fail, succeed
from streamward.moderation.worker_pool import moderator_closed
from streamward.moderation.worker_thread import Wakeups, start_thread
from streamward.reasons import defect
from streamward.schema import Side

logger = logging.getLogger(__name__)

_MAX_FAILURES = 3  # failures in succession after which calls are refused
_RETRY_S = 5.0  # time until a failed engine is tried again
_JOIN_S = 0.2  # time for a step to end when the worker is closed
_GONE = "gone"
_FAILED = "the guard's engine failed; try again later"
_REFUSAL = "the guard's engine failed several times in succession and is not asked any more; see the log"


class EngineWorker(TokenScorer):
    """Feeds an engine from any number of threads and event loops.

    Calls are queued, and each is a future. Those that arrive during a step share the next one, and finished calls are
    answered after every step. No caller waits for the engine's lock, and the thread sleeps while nothing is queued.

    An exception in that thread ends every waiting call; the engine recovers and goes on. After several failures in
    succession, calls are refused until the engine, which is retried periodically, works again.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take over an engine.

        Args:
            engine: Freed when the worker is closed.
            clock: Seconds that only grow.
        """
        self._engine: Engine | None = engine
        self._guard_config = engine.guard_config
        self._max_stream_tokens = engine.max_stream_tokens
        self._clock = clock
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._queue: list[WaitingRead] = []
        self._waiting: dict[Future[list[StepOutput]], WaitingRead] = {}  # reads that are not answered yet
        self._streams: set[int] = set()  # ids of the open streams
        self._opening: dict[int, str | None] = {}  # streams still to be opened, and their owners
        self._lengths: dict[int, int] = {}  # lengths to which streams are still to be truncated
        self._closing: set[int] = set()  # streams still to be closed
        self._is_running = False  # True while the thread works; it sleeps when everything is read
        # One thread for all steps: torch keeps workers and compiled kernels for each thread that computes.
        self._thread: threading.Thread | None = None
        self._wakeups = Wakeups()
        weakref.finalize(self, self._wakeups.put, False)
        self._active: dict[int, WaitingRead] = {}  # only the thread uses this field and the next
        self._later: list[WaitingRead] = []  # reads of streams that are busy with an earlier one
        self._num_failures = 0  # failures since the last step that succeeded
        self._failure: str | None = None  # reason for refusing calls
        self._alive_at = clock()
        self._stepped_at = clock()

    @property
    def engine(self) -> Engine:
        """The engine that reads the tokens.

        Raises:
            StreamClosedError: The worker was closed, and has let go of it.
        """
        if (engine := self._engine) is None:
            raise moderator_closed()
        return engine

    @property
    def guard_config(self) -> GuardConfig:
        """Labels and operating points of the guard."""
        return self._guard_config

    @property
    def max_stream_tokens(self) -> int:
        """Most tokens of one stream."""
        return self._max_stream_tokens

    def open(self) -> int:
        """Open a stream for the owner of the current call. Waits for nothing.

        Raises:
            OverloadedError: Too many streams are open.
            GuardFailedError: The engine does not work.
            StreamClosedError: The worker was closed.
        """
        owner = current_call().owner
        with self._lock:
            self._check_open()
            most = self.engine.config.max_streams
            if len(self._streams) >= most:
                raise OverloadedError(f"{most} streams are open, as many as max_streams allows; try later")
            stream_id = self.engine.new_id()
            if self._is_running:
                self._opening[stream_id] = owner
            else:
                self.engine.open(owner=owner, stream_id=stream_id)
            self._streams.add(stream_id)
            return stream_id

    def close_stream(self, stream_id: int) -> None:
        """Close a stream. Waits for nothing; whoever waits for its tokens gets a StreamClosedError."""
        with self._lock:
            self._streams.discard(stream_id)
            self._lengths.pop(stream_id, None)
            self._opening.pop(stream_id, None)
            if self._is_running:
                self._closing.add(stream_id)
            elif self._engine is not None:
                self._engine.close(stream_id)

    def score(self, stream_id: int, token_ids: Sequence[int], *, head: Side | None) -> list[StepOutput]:
        """Append tokens to a stream and wait until they are scored.

        Args:
            stream_id: From `open`.
            token_ids: Any number of ids; they are queued in parts so that no queue grows without bound.
            head: Side whose heads score these tokens; None if they are only context.

        Returns:
            The outputs of the scored tokens, in order; none for context.

        Raises:
            OverloadedError: The cache or the queue is full. The stream is as it was.
            ContextLengthError: The stream would exceed the engine's limit.
            InputError: An id is out of range.
            StreamClosedError: The stream was closed, perhaps in the meantime.
            CallCancelledError: The current call was cancelled. The stream is as it was, from the next step on.
            GuardFailedError: The engine does not work.
        """
        return self.score_segments(stream_id, [(token_ids, head)])

    def score_segments(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        """Like `score`, for successive tokens that different heads judge; together they cost one step if they fit."""
        pending = self.submit(stream_id, segments)
        wait_for(pending, call=current_call())
        return pending.result()

    @property
    def holds_thread(self) -> bool:
        """False: `submit` waits for nothing."""
        return False

    def submit(self, stream_id: int, segments: Sequence[Segment]) -> PendingScore:
        """Begin what `score_segments` does. Waits for nothing.

        Whoever lets what is pending fail cancels it: its tokens leave the engine before the next step, and the stream
        is as it was.
        """
        call = current_call()
        call.check()
        done = WorkerScore(self._is_worked_on)
        read = WaitingRead(stream_id, [each for each in segments if each[0]], call.owner, self._clock(), done)
        if not read.segments:
            succeed(done, [])
            return done
        with self._lock:
            self._check_open()
            self._wake()
            self._queue.append(read)
            self._waiting[done] = read
        done.add_done_callback(self._forget)
        return done

    def truncate(self, stream_id: int, length: int) -> None:
        """Drop a stream's tokens from `length` on. While a step runs, this is left for after it; nothing waits."""
        with self._lock:
            if self._is_running:
                self._lengths[stream_id] = min(length, self._lengths.get(stream_id, length))
            else:
                self.engine.truncate(stream_id, length)

    def health(self) -> GuardHealth:
        """Say whether reads make progress."""
        now = self._clock()
        with self._lock:
            oldest = min(map(self._progressed_at, self._waiting.values()), default=now)
            return GuardHealth(self._failure, now - self._alive_at if self._is_running else 0.0, now - oldest)

    def close(self) -> None:
        """Close all streams, and free the engine once the step that runs is over. May be called again."""
        with self._lock:
            self._stopped.set()
            if not self._is_running:
                self._engine = None
            thread = self._thread
            self._wakeups.put(False)
        self._fail_all(moderator_closed())
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)

    def _check_open(self) -> None:
        if self._stopped.is_set():
            raise moderator_closed()
        if self._failure is not None:
            raise GuardFailedError(self._failure)

    def _forget(self, done: "Future[list[StepOutput]]") -> None:
        """Note that nobody waits for a read any more; not under the lock."""
        with self._lock:
            self._waiting.pop(done, None)

    def _is_worked_on(self, done: PendingScore) -> bool:
        with self._lock:
            return done in self._waiting and self._thread is not None and self._thread.is_alive()

    def _wake(self) -> None:
        """Have the thread run; under the lock."""
        is_alive = self._thread is not None and self._thread.is_alive()
        if not is_alive:
            self._thread = start_thread(self, self._wakeups)
        if not self._is_running or not is_alive:
            self._is_running = True
            self._alive_at = self._clock()
            self._wakeups.put(True)

    def run(self) -> None:
        """Step until nothing waits, or the worker is closed. For its own thread."""
        is_busy = True
        while is_busy:
            try:
                is_busy = self._turn()
            except BaseException as error:  # after any error: nobody may wait for ever
                try:
                    self._survive(error)
                except BaseException:  # this failed too; the next turn tries again
                    self._failure = _REFUSAL

    def _turn(self) -> bool:
        """Take what has arrived, and make one step; False if there is nothing to do."""
        if self._failure is not None and not self._stopped.wait(_RETRY_S):
            self._try_again()
        with self._lock:
            if self._stopped.is_set():
                self._engine, self._active, self._later, self._is_running = None, {}, [], False
                return False
            arrived, self._queue, self._later = [*self._later, *self._queue], [], []
            if not (arrived or self._active or self._closing or self._opening or self._lengths):
                self._is_running = False
                return False
        self._alive_at = self._clock()
        for read in [each for each in self._active.values() if each.done.done()]:
            self._end(read)
        self._tidy()
        for read in arrived:
            self._begin(read)
        self._step()
        return True

    def _tidy(self) -> None:
        """Close, open and truncate what was asked for meanwhile; a stream that is busy is truncated after its read."""
        with self._lock:  # both under one lock: a stream opened next may take the place of a closed one
            closing, opening = list(self._closing), list(self._opening.items())
        for stream_id in closing:
            self.engine.close(stream_id)
            self._closing.discard(stream_id)
        for stream_id, owner in opening:
            self.engine.open(owner=owner, stream_id=stream_id)
            with self._lock:
                if self._opening.pop(stream_id, _GONE) is _GONE:  # the stream was closed in the meantime
                    self._closing.add(stream_id)
        with self._lock:
            lengths = {stream_id: each for stream_id, each in self._lengths.items() if stream_id not in self._active}
        for stream_id, length in lengths.items():
            with suppress(StreamwardError):  # the stream was closed
                self.engine.truncate(stream_id, length)
            with self._lock:
                if self._lengths.get(stream_id) == length:
                    del self._lengths[stream_id]

    def _begin(self, read: WaitingRead) -> None:
        """Take a read in; later if its stream is busy with an earlier one."""
        if read.done.done():
            return
        if read.stream_id in self._active:
            self._later.append(read)
        else:
            self._active[read.stream_id] = read

    def _step(self) -> None:
        engine, reads = self.engine, list(self._active.values())
        shares = QueueShares(engine, reads)
        for read in in_turn(reads):
            try:
                self._queue_part(read, shares)
            except OverloadedError as error:
                if not engine.num_queued_tokens:  # otherwise there is room once the queued tokens are read
                    self._end(read, error)
            except StreamwardError as error:
                self._end(read, error)
        if not self._active:
            return
        for output in self.engine.step():
            if output.stream_id in self._active:
                self._active[output.stream_id].outputs.append(output)
        for read in list(self._active.values()):
            self._note_progress(read)
        self._num_failures, self._stepped_at = 0, self._clock()

    def _queue_part(self, read: WaitingRead, shares: QueueShares) -> None:
        """Give the engine as many of a read's tokens as one step takes, once it has read those before."""
        if read.length is None:
            read.length = self.engine.length(read.stream_id)
        room = 0 if self.engine.num_queued(read.stream_id) else shares.of(read)
        while room and read.segments:
            token_ids, side = read.segments[0]
            self.engine.extend(read.stream_id, token_ids[:room], head=side)
            shares.note(read, min(room, len(token_ids)))
            if len(token_ids) > room:
                read.segments[0] = token_ids[room:], side
            else:
                del read.segments[0]
            room -= min(room, len(token_ids))
            read.num_left = self.engine.num_pending(read.stream_id)

    def _note_progress(self, read: WaitingRead) -> None:
        """Answer a read whose tokens are all read."""
        try:
            num_left = self.engine.num_pending(read.stream_id)
        except StreamClosedError as error:
            self._end(read, error)
            return
        if num_left < read.num_left:
            read.num_left, read.progressed_at = num_left, self._clock()
        if not num_left and not read.segments:
            del self._active[read.stream_id]
            succeed(read.done, read.outputs)

    def _progressed_at(self, read: WaitingRead) -> float:
        """Return when a read last made progress; while it waits for room, that is the progress of the others."""
        return read.progressed_at if read.num_left else max(read.progressed_at, self._stepped_at)

    def _end(self, read: WaitingRead, error: StreamwardError | None = None) -> None:
        """End a read without an answer; the stream is as it was before."""
        del self._active[read.stream_id]
        if read.length is not None:
            with suppress(StreamClosedError):
                self.engine.truncate(read.stream_id, read.length)
        if error is not None:
            fail(read.done, error)

    def _survive(self, error: BaseException) -> None:
        """End every call that waits, and put the engine in order."""
        self._num_failures += 1
        told = error if isinstance(error, StreamwardError) else EngineStepError(_FAILED)
        with self._lock:
            if self._num_failures >= _MAX_FAILURES:
                self._failure = _REFUSAL
            for read in self._active.values():
                if read.length is not None:
                    self._lengths[read.stream_id] = min(read.length, self._lengths.get(read.stream_id, read.length))
        self._fail_all(told)
        self._active, self._later = {}, []
        self.engine.recover(frozenset(self._streams))
        logger.error("the guard's engine failed", extra={"num_failures": self._num_failures, **defect(error)})

    def _try_again(self) -> None:
        """See whether the engine works again, with a token of a stream of its own."""
        self.engine.recover(frozenset(self._streams))
        self._tidy()
        stream_id = self.engine.open(is_extra=True)
        try:
            self.engine.extend(stream_id, [0], head=None)
            self.engine.step()
        finally:
            self.engine.close(stream_id)
        self._num_failures, self._failure = 0, None
        logger.info("the guard's engine works again")

    def _fail_all(self, error: Exception) -> None:
        """End every call that waits. Whoever is not told finds himself left out."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._queue.clear()
        for done in waiting:
            fail(done, error)
