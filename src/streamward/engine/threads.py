"""How many CPU threads a step may use while other processes want the cores too."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_MIN_BUSY_SHARE = 0.8  # of the threads' time that reached a core; spinning threads of an idle machine reach 1
_MIN_PREEMPTIONS = 20.0  # a second; threads that merely sleep are not preempted
_WINDOW = 0.05  # seconds of steps that are judged together
_WINDOWS_LOST = 2  # in succession, before a core is given up: one lost for a moment costs less
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds before more threads are tried again


class Usage(NamedTuple):
    """What this process had so far: seconds by the clock, seconds on cores, times it was preempted."""

    wall: float
    cpu: float
    preemptions: int


_NOTHING = Usage(0.0, 0.0, 0)


def process_usage() -> Usage:
    """Measure this process; where the system does not count preemptions they stay 0, and nothing ever changes."""
    preemptions = 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    return Usage(time.perf_counter(), time.process_time(), preemptions)


@contextmanager
def fixed_threads(number: int) -> Iterator[None]:
    """Let torch use a number of threads for the time of a `with` block; its setting belongs to each calling thread."""
    own = torch.get_num_threads()
    if own != number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if own != number:
            torch.set_num_threads(own)


class ThreadGovernor:
    """Takes fewer threads while another process holds cores, and all of them again afterwards.

    The threads of a parallel operation wait for each other by spinning. When one of them has lost its core to another
    process, the rest burn theirs in vain, and a step takes up to twenty times longer than with the cores that are left.
    Steps that were preempted and together got less of the cores than their threads asked for, in two windows of time in
    succession, lower their number. After a pause, which doubles with each failure, a step tries with all of them again.
    """

    def __init__(self, max_threads: int, *, measure: Callable[[], Usage] = process_usage) -> None:
        """Start with all threads.

        Args:
            max_threads: When the machine is free.
            measure: Replaced in tests.
        """
        self.max_threads = max_threads
        self.threads = max_threads
        """What the next step uses."""
        self._measure = measure
        self._seen = _NOTHING
        self._num_lost = 0
        self._pause = _FIRST_PAUSE
        self._retry_at = math.inf

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a step with the threads chosen; torch's own setting is as before afterwards."""
        before = self._measure()
        if before.wall >= self._retry_at:
            self.threads, self._retry_at, self._seen, self._num_lost = self.max_threads, math.inf, _NOTHING, 0
        try:
            with fixed_threads(self.threads):
                yield
        finally:
            self._learn(before, self._measure())

    def _learn(self, before: Usage, after: Usage) -> None:
        wall, cpu, preemptions = (
            seen + end - start for seen, start, end in zip(self._seen, before, after, strict=True)
        )
        self._seen = Usage(wall, cpu, int(preemptions))
        if wall < _WINDOW:
            return
        busy, is_preempted = cpu / wall, preemptions / wall > _MIN_PREEMPTIONS
        self._seen = _NOTHING
        is_lost = self.threads > 1 and is_preempted and busy < _MIN_BUSY_SHARE * self.threads
        self._num_lost = self._num_lost + 1 if is_lost else 0
        if self._num_lost == _WINDOWS_LOST:
            self._num_lost = 0
            self.threads = max(1, min(self.threads - 1, int(busy)))
            self._retry_at = after.wall + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        elif not is_lost and self.threads == self.max_threads and self._pause > _FIRST_PAUSE:
            self._pause = max(_FIRST_PAUSE, self._pause / 2)
