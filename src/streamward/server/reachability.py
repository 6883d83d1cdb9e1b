"""Reachability checks of the upstream servers."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

_KEPT_S = 5.0  # an answer is valid for this long
_TIMEOUT_S = 0.5  # an orchestrator's probe waits for one second


class Reachability:
    """Tries to connect to servers when somebody asks, and remembers what came of it. Used from the event loop only.

    Nothing is sent: it finds a server that is down before the first client does, and costs one connection in five
    seconds at most.
    """

    def __init__(self, upstreams: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Try nothing yet.

        Args:
            upstreams: Addresses by name.
            clock: Seconds that only grow.
        """
        self._upstreams = upstreams
        self._clock = clock
        self._lock = asyncio.Lock()
        self._asked_at: float | None = None
        self.found: Mapping[str, bool] = {}
        """Result of the last connection attempt, by upstream name."""

    async def unreachable(self) -> list[str]:
        """Return the names of the servers that take no connection."""
        async with self._lock:
            if self._asked_at is None or self._clock() - self._asked_at >= _KEPT_S:
                answers = await asyncio.gather(*map(_takes_connections, self._upstreams.values()))
                self.found = dict(zip(self._upstreams, answers, strict=True))
                self._asked_at = self._clock()
        return [name for name, is_reachable in self.found.items() if not is_reachable]


async def _takes_connections(url: str) -> bool:
    try:
        where = urlsplit(url)
        port = where.port or (443 if where.scheme == "https" else 80)
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(where.hostname, port)
    except (OSError, TimeoutError, ValueError):  # UnicodeError: a name that no server can have
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
