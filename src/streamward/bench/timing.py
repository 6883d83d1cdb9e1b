"""Repeated timing of one piece of work."""

import statistics
import time
from collections.abc import Callable

Work = Callable[[], object]


def median_seconds(work: Work, *, repeats: int, warmup: int = 2, min_seconds: float = 0.0) -> float:
    """Return the median time of one call; the arguments are those of `timed`."""
    return statistics.median(timed(work, repeats=repeats, warmup=warmup, min_seconds=min_seconds))


def timed(work: Work, *, repeats: int, warmup: int = 2, min_seconds: float = 0.0) -> list[float]:
    """Return the time of each call after the first ones.

    Args:
        work: Called again and again.
        repeats: How often at least.
        warmup: Calls before them, which do not count.
        min_seconds: What the calls must take together; what disturbs a machine for a moment then disturbs few of them.
    """
    for _ in range(warmup):
        work()
    seconds: list[float] = []
    while len(seconds) < repeats or sum(seconds) < min_seconds:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds
