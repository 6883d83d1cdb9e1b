"""Admission control and graceful shutdown."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamward.errors import OverloadedError


class Admission:
    """Counts requests in flight. Used from the event loop only."""

    def __init__(self, max_in_flight: int, *, drain_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            max_in_flight: Requests at the same time.
            drain_s: How long they may go on after a stop was asked for.
            clock: Seconds that only grow.
        """
        self._max_in_flight = max_in_flight
        self._drain_s = drain_s
        self._clock = clock
        self._stop_at: float | None = None
        self._num_in_flight = 0
        self._is_draining = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def num_in_flight(self) -> int:
        """Requests being answered."""
        return self._num_in_flight

    @property
    def is_draining(self) -> bool:
        """True if the service is stopping and accepts no new work."""
        return self._is_draining

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request for the time of a `with` block.

        Raises:
            OverloadedError: There are too many, or the service is stopping.
        """
        self.check_open()
        if self._num_in_flight >= self._max_in_flight:
            raise OverloadedError(f"{self._max_in_flight} requests are in flight; try again later")
        self._num_in_flight += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._num_in_flight -= 1
            if not self._num_in_flight:
                self._is_idle.set()

    def check_open(self) -> None:
        """Refuse work while the service is stopping.

        Raises:
            OverloadedError: It is.
        """
        if self._is_draining:
            raise OverloadedError("the service is stopping; try another one")

    def close(self) -> None:
        """Let no more work in. What is in flight has `drain_s` from the first time on. May be called anywhere."""
        if not self._is_draining:
            self._stop_at = self._clock() + self._drain_s
            self._is_draining = True

    @property
    def left_s(self) -> float:
        """Seconds that work in flight still has; all of `drain_s` while the service is not stopping."""
        return self.until(0.0)

    def until(self, grace_s: float) -> float:
        """Return the seconds until some time after `drain_s`. What follows one another in a stop shares this end."""
        if self._stop_at is None:
            return self._drain_s + grace_s
        return max(0.0, self._stop_at + grace_s - self._clock())

    async def drain(self, *, grace_s: float = 0.0) -> bool:
        """Let no more work in, and wait for what is in flight.

        Args:
            grace_s: For what was cancelled when its time was over to end.

        Returns:
            Whether all of it ended in time.
        """
        self.close()
        try:
            await asyncio.wait_for(self._is_idle.wait(), self.until(grace_s))
        except TimeoutError:
            return False
        return True
