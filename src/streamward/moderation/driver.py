"""Runs one engine for many threads: one of its own steps for all of them while they wait."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from streamward.engine.engine import Engine, StepOutput
from streamward.errors import StreamClosedError, StreamwardError
from streamward.model.config import GuardConfig
from streamward.schema import Side

Segment = tuple[Sequence[int], Side | None]
"""Token ids, and whose heads judge them; None if they are only context."""
T = TypeVar("T")


class Driver(Protocol):
    """Where a guard's streams of tokens are read: by an engine in this process, or elsewhere. Thread-safe.

    The methods do what those of `EngineDriver` do, and raise what those raise.
    """

    @property
    def guard_config(self) -> GuardConfig:
        """Labels and lines of the guard."""
        ...

    @property
    def max_stream_tokens(self) -> int:
        """Most tokens of one stream."""
        ...

    def open(self) -> int:
        """Open a stream."""
        ...

    @contextmanager
    def temporary_stream(self) -> Iterator[int]:
        """Open a stream for the time of a `with` block."""
        stream_id = self.open()
        try:
            yield stream_id
        finally:
            self.close_stream(stream_id)

    def close_stream(self, stream_id: int) -> None:
        """Close a stream."""
        ...

    def read(self, stream_id: int, token_ids: Sequence[int], *, side: Side | None) -> list[StepOutput]:
        """Add tokens to a stream and wait until they are read."""
        ...

    def read_segments(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        """Likewise for successive tokens that different heads judge."""
        ...

    def truncate(self, stream_id: int, length: int) -> None:
        """Drop a stream's tokens from `length` on."""
        ...

    def close(self) -> None:
        """Refuse new streams; open ones go on."""
        ...


@dataclass(slots=True)
class _Read:
    """Tokens on their way through the engine.

    Attributes:
        segments: What is not queued yet.
        length: Of the stream before; None until the first tokens are queued.
    """

    stream_id: int
    segments: list[Segment]
    length: int | None = None
    outputs: list[StepOutput] = field(default_factory=list)
    done: Future[list[StepOutput]] = field(default_factory=Future)


@dataclass(slots=True)
class _Call:
    """Something to be done between two steps, on a stream that no read is busy with."""

    stream_id: int | None
    action: Callable[[], object]
    done: Future[object] = field(default_factory=Future)


class EngineDriver(Driver):
    """Feeds an engine from any number of threads.

    Calls are put in a queue. While one step runs others arrive, and the next step takes the tokens of all of them
    together; what is ready is handed over after every step. Nobody waits for the engine's lock, and no thread runs
    while there is nothing to do.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # One thread for all steps: torch keeps workers and compiled kernels for each thread that computes.
        self._stepper = ThreadPoolExecutor(1, thread_name_prefix="streamward-engine")
        self._lock = threading.Lock()
        self._queue: list[_Read | _Call] = []
        self._is_running = False  # whether the stepper is at work; it stops when everything is read
        self._is_closed = False

    @property
    def guard_config(self) -> GuardConfig:
        """Labels and lines of the guard."""
        return self.engine.model.guard_config

    @property
    def max_stream_tokens(self) -> int:
        """Most tokens of one stream."""
        return self.engine.max_stream_tokens

    def open(self) -> int:
        """Open a stream.

        Raises:
            OverloadedError: Too many streams are open.
            StreamClosedError: The driver was closed.
        """
        if self._is_closed:
            raise StreamClosedError("the moderator is closed; load the guard again")
        return self._between_steps(self.engine.open)

    def close_stream(self, stream_id: int) -> None:
        """Close a stream; whoever waits for its tokens gets a StreamClosedError."""
        self._between_steps(lambda: self.engine.close(stream_id))

    def read(self, stream_id: int, token_ids: Sequence[int], *, side: Side | None) -> list[StepOutput]:
        """Add tokens to a stream and wait until they are read.

        Args:
            stream_id: From `open`.
            token_ids: Any number of ids; they are queued in parts so that no queue grows without bound.
            side: Whose heads judge these tokens; None if they are only context.

        Returns:
            The outputs of the judged tokens, in order; none for context.

        Raises:
            OverloadedError: The cache or the queue is full. The stream is as it was.
            ContextLengthError: The stream would exceed the engine's limit.
            InputError: An id is out of range.
            StreamClosedError: The stream was closed, perhaps in the meantime.
        """
        return self.read_segments(stream_id, [(token_ids, side)])

    def read_segments(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        """Like `read`, for successive tokens that different heads judge; together they cost one step if they fit."""
        read = _Read(stream_id, [segment for segment in segments if segment[0]])
        if not read.segments:
            return []
        with self._lock:
            self._queue.append(read)
            if not self._is_running:
                self._is_running = True
                self._stepper.submit(self._run)
        return read.done.result()

    def truncate(self, stream_id: int, length: int) -> None:
        """Drop a stream's tokens from `length` on. While a step runs, this is left for after it; nothing waits."""
        call = _Call(stream_id, lambda: self.engine.truncate(stream_id, length))
        with self._lock:
            if self._is_running:
                self._queue.append(call)
                return
        call.action()

    def close(self) -> None:
        """Refuse new streams; open ones go on."""
        self._is_closed = True

    def _between_steps(self, action: Callable[[], T]) -> T:
        done: Future[object] = Future()
        result: list[T] = []
        with self._lock:
            if not self._is_running:
                return action()
            self._queue.append(_Call(None, lambda: result.append(action()), done))
        done.result()
        return result[0]

    def _run(self) -> None:
        """Step until nothing waits."""
        active: dict[int, _Read] = {}
        while True:
            with self._lock:
                arrived, self._queue = self._queue, []
                if not arrived and not active:
                    self._is_running = False
                    return
            later = [item for item in arrived if not self._begin(item, active)]
            if later:
                with self._lock:
                    self._queue[:0] = later
            self._step(active)

    def _begin(self, item: _Read | _Call, active: dict[int, _Read]) -> bool:
        """Make a call, or take a read in; False if the stream is busy with an earlier read."""
        if item.stream_id in active:
            return False
        if isinstance(item, _Read):
            active[item.stream_id] = item
            return True
        try:
            item.action()
        except Exception as error:  # whatever it is, it is the caller's
            item.done.set_exception(error)
        else:
            item.done.set_result(None)
        return True

    def _step(self, active: dict[int, _Read]) -> None:
        for read in list(active.values()):
            try:
                self._queue_part(read)
            except StreamwardError as error:
                self._fail(read, error, active)
        try:
            for output in self.engine.step():
                if output.stream_id in active:
                    active[output.stream_id].outputs.append(output)
        except Exception as error:  # nobody may wait for ever, whatever happened
            for read in list(active.values()):
                self._fail(read, error, active)
        for read in list(active.values()):
            self._finish_if_read(read, active)

    def _queue_part(self, read: _Read) -> None:
        """Give the engine as many of a read's tokens as one step takes, once it has read those before."""
        if read.length is None:
            read.length = self.engine.length(read.stream_id)
        room = self.engine.config.max_batch_tokens if not self.engine.num_queued(read.stream_id) else 0
        while room and read.segments:
            token_ids, side = read.segments[0]
            self.engine.extend(read.stream_id, token_ids[:room], read=side)
            if len(token_ids) > room:
                read.segments[0] = token_ids[room:], side
            else:
                del read.segments[0]
            room -= min(room, len(token_ids))

    def _finish_if_read(self, read: _Read, active: dict[int, _Read]) -> None:
        try:
            is_read = not read.segments and not self.engine.num_queued(read.stream_id)
        except StreamClosedError as error:
            self._fail(read, error, active)
            return
        if is_read:
            del active[read.stream_id]
            read.done.set_result(read.outputs)

    def _fail(self, read: _Read, error: Exception, active: dict[int, _Read]) -> None:
        """End a read with an error; the stream is as it was before."""
        del active[read.stream_id]
        if read.length is not None:
            with suppress(StreamClosedError):
                self.engine.truncate(read.stream_id, read.length)
        read.done.set_exception(error)
