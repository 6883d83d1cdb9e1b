"""Runs one engine for many threads: whoever waits for verdicts does the next step for everybody."""

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from streamward.engine.engine import Engine, StepOutput
from streamward.errors import StreamClosedError, StreamwardError
from streamward.schema import Side

Segment = tuple[Sequence[int], Side | None]
"""Token ids, and whose heads judge them; None if they are only context."""


class EngineDriver:
    """Feeds an engine from any number of threads.

    Each caller queues its tokens and then steps the engine until they are judged. While one step runs, the others
    queue, so that the next step takes the tokens of all of them together.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._step_lock = threading.Lock()
        # One thread for all steps: torch keeps workers and compiled kernels for each thread that computes.
        self._stepper = ThreadPoolExecutor(1, thread_name_prefix="streamward-engine")
        self._inbox: dict[int, list[StepOutput]] = defaultdict(list)
        self._is_closed = False

    @contextmanager
    def temporary_stream(self) -> Iterator[int]:
        """Open a stream for the time of a `with` block."""
        stream_id = self.open()
        try:
            yield stream_id
        finally:
            self.close_stream(stream_id)

    def open(self) -> int:
        """Open a stream.

        Raises:
            OverloadedError: Too many streams are open.
            StreamClosedError: The driver was closed.
        """
        if self._is_closed:
            raise StreamClosedError("the moderator is closed; load the guard again")
        return self.engine.open()

    def close_stream(self, stream_id: int) -> None:
        """Close a stream and forget what it has not read."""
        with self._step_lock:
            self.engine.close(stream_id)
            self._inbox.pop(stream_id, None)

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
        """
        return self.read_segments(stream_id, [(token_ids, side)])

    def read_segments(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        """Like `read`, for successive tokens that different heads judge; together they cost one step if they fit."""
        length = self.engine.length(stream_id)
        try:
            return self._read_segments(stream_id, segments)
        except StreamClosedError:
            raise
        except StreamwardError:
            self._undo(stream_id, length)
            raise

    def _read_segments(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        outputs: list[StepOutput] = []
        most = room = self.engine.config.max_batch_tokens
        for token_ids, side in segments:
            start = 0
            while start < len(token_ids):
                if not room:
                    outputs += self._drain(stream_id)
                    room = most
                part = token_ids[start : start + room]
                self.engine.extend(stream_id, part, read=side)
                start += len(part)
                room -= len(part)
        return outputs + self._drain(stream_id)

    def truncate(self, stream_id: int, length: int) -> None:
        """Drop a stream's tokens from `length` on."""
        self.engine.truncate(stream_id, length)

    def close(self) -> None:
        """Refuse new streams; open ones go on."""
        self._is_closed = True

    def _drain(self, stream_id: int) -> list[StepOutput]:
        while True:
            with self._step_lock:  # outputs are handed over under the same lock, so none is missed
                if not self.engine.num_queued(stream_id):
                    return self._inbox.pop(stream_id, [])
                for output in self._stepper.submit(self.engine.step).result():
                    self._inbox[output.stream_id].append(output)

    def _undo(self, stream_id: int, length: int) -> None:
        with self._step_lock:
            self.engine.truncate(stream_id, length)
            self._inbox.pop(stream_id, None)
