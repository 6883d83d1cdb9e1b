"""Until when text of an answer may wait for the guard."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class GuardDeadline:
    """The deadline of one answer's text. All that judges the text shares it: openings, pieces, attempts and the end.

    It counts from the moment the text came, and what the client takes to accept data does not count. Times are those of
    the event loop's clock.
    """

    def __init__(self, timeout_s: float) -> None:
        """Expect `begin`."""
        self._timeout_s = timeout_s
        self._at = 0.0
        self._pauses: list[tuple[float, float]] = []

    def begin(self, since: float | None = None) -> None:
        """Start anew: all that waited before is judged.

        Args:
            since: When the text that waits now has come; None: now.
        """
        came = _now() if since is None else since
        paused_s = sum(max(0.0, end - max(start, came)) for start, end in self._pauses)
        self._pauses.clear()
        self._at = came + paused_s + self._timeout_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wait for the client within the block: text that comes meanwhile does not wait for the guard."""
        start = _now()
        yield
        self._pauses.append((start, _now()))

    def timeout(self) -> asyncio.Timeout:
        """Return a context manager that raises `TimeoutError` at the deadline."""
        return asyncio.timeout_at(self._at)


def _now() -> float:
    return asyncio.get_running_loop().time()
