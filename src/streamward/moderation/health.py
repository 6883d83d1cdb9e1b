"""Progress of a guard, seen from outside."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamward.errors import GuardFailedError


class EngineStepError(GuardFailedError):
    """The engine failed while it read a text. It has recovered, or is refused from now on; the text was not judged."""


@dataclass(frozen=True, slots=True)
class GuardHealth:
    """The visible state of a guard's work.

    Attributes:
        failure: Why every call is refused; None while they are not.
        step_s: Seconds since the thread that steps the engine last showed life; 0 while nothing waits.
        wait_s: Seconds since the read that is furthest behind was made, or made progress; 0 while none waits.
    """

    failure: str | None = None
    step_s: float = 0.0
    wait_s: float = 0.0


class ReadClock:
    """Knows since when the oldest of some reads waits. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with no reads.

        Args:
            clock: Seconds that only grow.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._started: dict[object, float] = {}

    @contextmanager
    def reading(self) -> Iterator[Callable[[], None]]:
        """Count a read for the time of a `with` block; what is yielded notes that it has made progress."""
        read = object()

        def note() -> None:
            with self._lock:
                self._started[read] = self._clock()

        note()
        try:
            yield note
        finally:
            with self._lock:
                del self._started[read]

    def health(self) -> GuardHealth:
        """Return since when the oldest read waits."""
        now = self._clock()
        with self._lock:
            return GuardHealth(wait_s=now - min(self._started.values(), default=now))
