"""Rate limits and concurrency limits per key and per peer."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamward.errors import RateLimitError

_MINUTE_S = 60.0
_MAX_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Rate and concurrency limits of a key."""

    requests_per_minute: int
    max_concurrent: int


@dataclass(slots=True)
class _Bucket:
    """A token bucket: the remaining allowance and the time of its last refill."""

    left: float
    filled_at: float


class Buckets:
    """Token buckets by holder, refilled evenly. Used from the event loop only.

    The package `limits` has windows but no token bucket that can be refunded (`give_back`), so this stays our own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, window_s: float = _MINUTE_S) -> None:
        """Start with all of it left to everybody; what was used comes back evenly within the window."""
        self._clock = clock
        self._window_s = window_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, holder: str, *, most: int) -> float:
        """Use one up. Returns 0.0; if none is left, the seconds until there is one."""
        bucket = self._bucket(holder, most)
        if bucket.left < 1:
            return (1 - bucket.left) * self._window_s / most
        bucket.left -= 1
        return 0.0

    def give_back(self, holder: str, *, most: int) -> None:
        """Undo a `take`."""
        bucket = self._bucket(holder, most)
        bucket.left = min(float(most), bucket.left + 1)

    def left(self, holder: str, *, most: int) -> float:
        """Return what is left; nothing is counted."""
        return self._bucket(holder, most).left

    def _bucket(self, holder: str, most: int) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(holder)
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                self._buckets.popitem(last=False)  # the least recently used one
            bucket = self._buckets[holder] = _Bucket(float(most), now)
        self._buckets.move_to_end(holder)
        bucket.left = min(float(most), bucket.left + (now - bucket.filled_at) * most / self._window_s)
        bucket.filled_at = now
        return bucket


class Places:
    """Counts what each holder has open at the same time. Used from the event loop only."""

    def __init__(self) -> None:
        """Start with nothing open."""
        self._held: Counter[str] = Counter()

    @contextmanager
    def held(self, holder: str, *, most: int, told: str) -> Iterator[None]:
        """Take a place for the time of a `with` block.

        Args:
            holder: Who takes it.
            most: How many places it may have.
            told: What its limit is called in the error.

        Raises:
            RateLimitError: It has them all.
        """
        if self._held[holder] >= most:
            raise RateLimitError(f"{told} of {most} at the same time is reached", retry_after_s=1.0)
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]


class RateLimiter:
    """Counts each key's requests in this process. Used from the event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nobody counted."""
        self._buckets = Buckets(clock)
        self._places = Places()

    def take(self, key_id: str, limits: KeyLimits) -> None:
        """Count a request.

        Raises:
            RateLimitError: None is left.
        """
        wait_s = self._buckets.take(key_id, most=limits.requests_per_minute)
        if wait_s:
            raise RateLimitError(
                f"the key's limit of {limits.requests_per_minute} requests per minute is reached", retry_after_s=wait_s
            )

    def headers(self, key_id: str, limits: KeyLimits) -> dict[str, str]:
        """Return the headers that tell a caller what is left, as OpenAI names them; nothing is counted."""
        left = self._buckets.left(key_id, most=limits.requests_per_minute)
        reset_s = (limits.requests_per_minute - left) * _MINUTE_S / limits.requests_per_minute
        return {
            "x-ratelimit-limit-requests": str(limits.requests_per_minute),
            "x-ratelimit-remaining-requests": str(int(left)),
            "x-ratelimit-reset-requests": f"{reset_s:.3f}s",
        }

    @contextmanager
    def running(self, key_id: str, limits: KeyLimits) -> Iterator[None]:
        """Count a request or stream among those at the same time, for the time of a `with` block.

        Raises:
            RateLimitError: There are too many.
        """
        told = "the key's limit of requests and streams"
        with self._places.held(key_id, most=limits.max_concurrent, told=told):
            yield
