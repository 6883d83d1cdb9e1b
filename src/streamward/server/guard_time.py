"""Time that one request spent waiting for the guard, apart from the time in which its text was written."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class GuardTime:
    """Sum of the waits of one request. Used from the event loop; its waits do not overlap."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start at zero.

        Args:
            clock: Seconds that only grow.
        """
        self._clock = clock
        self._seconds: float | None = None

    @property
    def ms(self) -> float | None:
        """Milliseconds waited so far; None if the guard was never asked."""
        return None if self._seconds is None else self._seconds * 1000

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Add the time of a `with` block, also if it raises."""
        started = self._clock()
        try:
            yield
        finally:
            self._seconds = (self._seconds or 0.0) + self._clock() - started
