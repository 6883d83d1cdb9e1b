"""Reads of many streams in few calls to a replica: a call costs more than the tokens in it."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple

from streamward.distributed.wire import ReadReply, ReadRequest
from streamward.errors import CallCancelledError
from streamward.guard_call import current_call
from streamward.moderation.waiting import fail, succeed

_MAX_CALLS = 2  # under way at once to one replica: while one is judged the next gathers and leaves
_MAX_READS = 64  # most reads in one call


class _QueuedRead(NamedTuple):
    """A read, who waits for it, and until when."""

    request: ReadRequest
    future: "Future[ReadReply]"
    deadline: float


class ReadBatcher:
    """Gathers the reads for one replica while calls to it are under way, and sends them together. Thread-safe."""

    def __init__(self, send: Callable[[Sequence[ReadRequest], float], Sequence[ReadReply]], *, pool: Executor) -> None:
        """Begin with no call under way.

        Args:
            send: Makes a call that takes at most so many seconds; replies in the order of the requests.
            pool: Where calls are made.
        """
        self._send = send
        self._pool = pool
        self._lock = threading.Lock()
        self._waiting: list[_QueuedRead] = []
        self._num_calls = 0

    def read(self, request: ReadRequest, *, timeout_s: float) -> ReadReply:
        """Have tokens read: at once if few calls are under way, else with those that come meanwhile.

        Raises:
            TimeoutError: There was no reply in time; if it was not sent yet, it will not be.
            CallCancelledError: The current call was cancelled. Likewise.
            Exception: Whatever `send` raised for the call it was in.
        """
        future: Future[ReadReply] = Future()
        with self._lock:
            self._waiting.append(_QueuedRead(request, future, time.monotonic() + timeout_s))
            if self._num_calls < _MAX_CALLS:
                self._pool.submit(self._send_all)
                self._num_calls += 1
        call = current_call()
        try:
            with call.waking(lambda: fail(future, call.error or CallCancelledError("the call was cancelled"))):
                return future.result(timeout_s)
        except BaseException:  # also after an interrupt: nobody waits any more
            future.cancel()
            raise

    def _send_all(self) -> None:
        """Make calls until nobody waits."""
        while batch := self._next_batch():
            try:
                left_s = max(0.0, max(each.deadline for each in batch) - time.monotonic())
                replies = self._send([each.request for each in batch], left_s)
                for each, reply in zip(batch, replies, strict=True):
                    succeed(each.future, reply)
            except BaseException as error:  # after any error the waiting callers must be told
                told = error if isinstance(error, Exception) else RuntimeError(f"failed: {type(error).__name__}")
                for each in batch:
                    fail(each.future, told)

    def _next_batch(self) -> list[_QueuedRead]:
        with self._lock:
            batch: list[_QueuedRead] = []
            while not batch and self._waiting:
                first, self._waiting = self._waiting[:_MAX_READS], self._waiting[_MAX_READS:]
                batch = [each for each in first if not each.future.done()]
            if not batch:
                self._num_calls -= 1
            return batch
