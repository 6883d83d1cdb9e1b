"""Limits of single keys: requests a minute, and requests at the same time."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamward.errors import RateLimitError

_MINUTE_S = 60.0
_MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may do."""

    requests_per_minute: int
    max_concurrent: int


@dataclass(slots=True)
class _Bucket:
    """Requests left, refilled evenly."""

    tokens: float
    filled_at: float
    num_concurrent: int = 0


class RateLimiter:
    """Counts each key's requests in this process. Used from the event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nobody counted."""
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key_id: str, limits: KeyLimits) -> None:
        """Count a request.

        Raises:
            RateLimitError: None is left.
        """
        bucket = self._bucket(key_id, limits)
        if bucket.tokens < 1:
            wait_s = (1 - bucket.tokens) * _MINUTE_S / limits.requests_per_minute
            raise RateLimitError(
                f"the key's limit of {limits.requests_per_minute} requests a minute is reached", retry_after_s=wait_s
            )
        bucket.tokens -= 1

    def headers(self, key_id: str, limits: KeyLimits) -> dict[str, str]:
        """Return the headers that tell a caller what is left, as OpenAI names them; nothing is counted."""
        bucket = self._bucket(key_id, limits)
        reset_s = (limits.requests_per_minute - bucket.tokens) * _MINUTE_S / limits.requests_per_minute
        return {
            "x-ratelimit-limit-requests": str(limits.requests_per_minute),
            "x-ratelimit-remaining-requests": str(int(bucket.tokens)),
            "x-ratelimit-reset-requests": f"{reset_s:.3f}s",
        }

    @contextmanager
    def running(self, key_id: str, limits: KeyLimits) -> Iterator[None]:
        """Count a request or stream among those at the same time, for the time of a `with` block.

        Raises:
            RateLimitError: There are too many.
        """
        bucket = self._bucket(key_id, limits)
        if bucket.num_concurrent >= limits.max_concurrent:
            raise RateLimitError(
                f"the key's limit of {limits.max_concurrent} requests and streams at the same time is reached",
                retry_after_s=1.0,
            )
        bucket.num_concurrent += 1
        try:
            yield
        finally:
            bucket.num_concurrent -= 1

    def _bucket(self, key_id: str, limits: KeyLimits) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(key_id)
        if bucket is None:
            self._forget_idle()
            bucket = self._buckets[key_id] = _Bucket(float(limits.requests_per_minute), now)
        self._buckets.move_to_end(key_id)
        earned = (now - bucket.filled_at) * limits.requests_per_minute / _MINUTE_S
        bucket.tokens = min(float(limits.requests_per_minute), bucket.tokens + earned)
        bucket.filled_at = now
        return bucket

    def _forget_idle(self) -> None:
        while len(self._buckets) >= _MAX_KEYS:
            key_id = next((each for each, bucket in self._buckets.items() if not bucket.num_concurrent), None)
            if key_id is None:
                return
            del self._buckets[key_id]
