"""How much work is let in at the same time, and how a service stops."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from streamward.errors import OverloadedError


class Admission:
    """Counts requests in flight. Used from the event loop only."""

    def __init__(self, max_in_flight: int) -> None:
        """Start empty."""
        self._max_in_flight = max_in_flight
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
        """Whether the service is stopping and takes no new work."""
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
        """Let no more work in."""
        self._is_draining = True

    async def drain(self, timeout_s: float) -> bool:
        """Let no more work in, and wait for what is in flight.

        Returns:
            Whether all of it ended in time.
        """
        self.close()
        try:
            await asyncio.wait_for(self._is_idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True
