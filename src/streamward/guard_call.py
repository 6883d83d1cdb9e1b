"""The call that a thread judges for: who makes it, and whether its answer is still wanted."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from streamward.errors import CallCancelledError, StreamwardError

T = TypeVar("T")


class GuardCall:
    """One call of a guard, from the thread that judges to whoever may cancel it. Thread-safe."""

    def __init__(self, owner: str | None = None) -> None:
        """Begin a call that is wanted.

        Args:
            owner: Who makes it; the work of different owners is done in turns.
        """
        self.owner = owner
        self.checked_at = time.monotonic()
        """Time at which it was last seen to continue."""
        self.has_begun = False
        """True once the input of the call was taken in; it does not change once the call was cancelled."""
        self._lock = threading.Lock()
        self._error: StreamwardError | None = None
        self._wakes: list[Callable[[], object]] = []

    @property
    def error(self) -> StreamwardError | None:
        """Error that ends the call; None while its answer is wanted."""
        return self._error

    def cancel(self, error: StreamwardError | None = None) -> None:
        """End the call as soon as possible, wherever it is; from any thread. Only the first time counts.

        Args:
            error: What it ends with; by default a CallCancelledError.
        """
        with self._lock:
            if self._error is not None:
                return
            self._error = error or CallCancelledError("the call was cancelled")
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def check(self) -> None:
        """Note that the call goes on, if its answer is wanted.

        Raises:
            CallCancelledError: It was cancelled; or what `cancel` was given.
        """
        if self._error is not None:
            raise self._error
        self.checked_at = time.monotonic()

    def begin(self) -> None:
        """Note that what the call brought is taken in now; raises as `check`."""
        with self._lock:
            self.check()
            self.has_begun = True

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have something called on cancellation, for the time of a `with` block that waits; raises as `check`."""
        with self._lock:
            self.check()
            self._wakes.append(wake)
        try:
            yield
        finally:
            with self._lock:
                if wake in self._wakes:
                    self._wakes.remove(wake)

    @contextmanager
    def ending(self, end: Callable[[StreamwardError], object]) -> Iterator[None]:
        """Have something given the error on cancellation, for the time of a `with` block; at once if it was cancelled.

        Unlike `waking` it raises nothing: what waits in the block ends with that error.
        """

        def wake() -> None:
            assert self._error is not None
            end(self._error)

        with self._lock:
            is_over = self._error is not None
            if not is_over:
                self._wakes.append(wake)
        if is_over:
            wake()
        try:
            yield
        finally:
            with self._lock:
                if wake in self._wakes:
                    self._wakes.remove(wake)

    def make(self, judge: Callable[[], T]) -> T:
        """Make the call in this thread; raises as `check`, or what is raised there."""
        with self.current():
            self.check()
            return judge()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it the call that this thread judges for, for the time of a `with` block."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[GuardCall | None] = ContextVar("streamward_call", default=None)


def current_call() -> GuardCall:
    """Return the call that this thread judges for; one that nobody cancels if none was begun."""
    return _CURRENT.get() or GuardCall()


def call_of(owner: str | None) -> GuardCall:
    """Return the call that is being made for an owner, begun if it was not."""
    found = current_call()
    return found if found.owner == owner else GuardCall(owner)
