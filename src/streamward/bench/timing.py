"""Repeated timing of one piece of work."""

import statistics
import time
from collections.abc import Callable

Work = Callable[[], object]


def median_seconds(work: Work, *, repeats: int, warmup: int = 2) -> float:
    """Return the median time of one call."""
    return statistics.median(timed(work, repeats=repeats, warmup=warmup))


def timed(work: Work, *, repeats: int, warmup: int = 2) -> list[float]:
    """Return the time of each call after the first ones."""
    for _ in range(warmup):
        work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds
