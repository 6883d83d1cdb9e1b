"""A circuit breaker: a guard that has failed several times in a row is left alone for a while, then tried once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class CircuitState(StrEnum):
    """State of a circuit breaker: do questions pass?"""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class CircuitPermit:
    """Leave to ask one question; its outcome is reported with it.

    Attributes:
        generation: Changes of state before it was given; outcomes of questions from before the last change count no
            more.
        is_probe: True for the one question of a half-open circuit.
    """

    generation: int
    is_probe: bool


class CircuitBreaker:
    """Counts failures in a row and opens after a number of them. Thread-safe; never waits.

    Closed, every question passes. Open, none does until `open_s` have passed; then one question probes the guard while
    the others are still refused. If it is answered, the circuit closes, else it stays open for `open_s` more.
    """

    def __init__(self, *, max_failures: int, open_s: float, clock: Callable[[], float]) -> None:
        """Start closed.

        Args:
            max_failures: Failures in a row after which it opens; 0 for never.
            open_s: Seconds that it stays open before a probe.
            clock: Seconds that only grow.
        """
        self._max_failures = max_failures
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._state = CircuitState.CLOSED
        self._generation = 0
        self._num_failures = 0
        self._num_openings = 0
        self._probe_at = 0.0

    @property
    def state(self) -> CircuitState:
        """The state; an open circuit stays open until a question asks for leave."""
        with self._lock:
            return self._state

    @property
    def num_openings(self) -> int:
        """Times that it has opened, failed probes included."""
        with self._lock:
            return self._num_openings

    def admit(self) -> CircuitPermit | None:
        """Give leave to ask one question, or None if it may not be asked. Every permit has one outcome to report."""
        with self._lock:
            if self._state is CircuitState.CLOSED:
                return CircuitPermit(self._generation, is_probe=False)
            if self._state is CircuitState.HALF_OPEN or self._clock() < self._probe_at:
                return None
            self._enter(CircuitState.HALF_OPEN)
            return CircuitPermit(self._generation, is_probe=True)

    def succeeded(self, permit: CircuitPermit) -> None:
        """Report that the guard answered."""
        with self._lock:
            if permit.generation == self._generation:
                self._num_failures = 0
                if self._state is not CircuitState.CLOSED:
                    self._enter(CircuitState.CLOSED)

    def failed(self, permit: CircuitPermit) -> None:
        """Report that the guard did not answer."""
        with self._lock:
            if permit.generation != self._generation:
                return
            self._num_failures += 1
            if permit.is_probe or 0 < self._max_failures <= self._num_failures:
                self._open(self._clock() + self._open_s)

    def abandoned(self, permit: CircuitPermit) -> None:
        """Report that nobody waited for the answer, which says nothing about the guard; another may probe at once."""
        with self._lock:
            if permit.generation == self._generation and permit.is_probe:
                self._enter(CircuitState.OPEN)

    def _open(self, probe_at: float) -> None:
        self._probe_at = probe_at
        self._num_openings += 1
        self._enter(CircuitState.OPEN)

    def _enter(self, state: CircuitState) -> None:
        self._state = state
        self._generation += 1
        if state is CircuitState.CLOSED:
            self._num_failures = 0
