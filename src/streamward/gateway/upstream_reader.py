"""Reads an upstream's answer while what came before is judged."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from streamward.errors import UpstreamError
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.upstream import Upstream, delays

logger = logging.getLogger(__name__)

_DRAIN_S = 0.2
_MAX_DRAINED_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class UpstreamHead:
    """The beginning of an upstream's answer.

    Attributes:
        status: HTTP status.
        media_type: What follows; empty if it does not say.
        headers: When to try again, if it says so.
    """

    status: int
    media_type: str
    headers: Mapping[str, str]

    @property
    def is_stream(self) -> bool:
        """True if server-sent events follow."""
        return self.media_type == "text/event-stream"

    @property
    def may_be_stream(self) -> bool:
        """True if server-sent events may follow: some servers do not say so."""
        return self.is_stream or self.media_type in ("", "text/plain")


class UpstreamReader:
    """One answer, read ahead by a task of its own up to a limit. Close it: that ends the request."""

    def __init__(self, upstream: Upstream, path: str, body: JsonObject, *, max_ahead_bytes: int) -> None:
        """Send the request; needs a running event loop."""
        self.came_at = 0.0
        """Time of the first part of the last batch, by the event loop's clock; if none came, of the end of the wait."""
        self._max_ahead_bytes = max_ahead_bytes
        self._waiting: deque[bytes] = deque()
        self._oldest_at = 0.0  # when the oldest waiting data arrived
        self._size = 0
        self._has_more = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_over = False
        self._error: UpstreamError | None = None
        self._head: asyncio.Future[UpstreamHead] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(upstream, path, body))

    async def head(self) -> UpstreamHead:
        """Wait for the headers.

        Raises:
            UpstreamError: There are none.
        """
        return await asyncio.shield(self._head)

    async def next(self) -> list[bytes] | None:
        """Wait for more and return all that has come in; None when the answer is over.

        Raises:
            UpstreamError: It broke off or came too late.
        """
        try:
            await self._has_more.wait()
        finally:  # also if the caller waits no longer
            self.came_at = self._oldest_at if self._waiting else asyncio.get_running_loop().time()
        batch = list(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._has_room.set()
        if not batch:
            if self._error is not None:
                raise self._error
            return None
        if not self._is_over:
            self._has_more.clear()
        return batch

    async def drain(self) -> None:
        """Give an answer that is over a moment to end by itself, so that its connection can be used again."""
        self._max_ahead_bytes = _MAX_DRAINED_BYTES
        self._has_room.set()
        await asyncio.wait({self._task}, timeout=_DRAIN_S)

    async def aclose(self) -> None:
        """End the request if it is still going on."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        if not self._head.done():
            self._head.cancel()

    async def _run(self, upstream: Upstream, path: str, body: JsonObject) -> None:
        try:
            async with upstream.post(path, body) as response:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                self._head.set_result(UpstreamHead(response.status_code, kind, delays(response)))
                async for data in response.aiter_bytes():
                    if not self._waiting:
                        self._oldest_at = asyncio.get_running_loop().time()
                    self._waiting.append(data)
                    self._size += len(data)
                    self._has_more.set()
                    if self._size >= self._max_ahead_bytes:
                        self._has_room.clear()
                        await self._has_room.wait()
        except UpstreamError as error:
            self._fail(error)
        except Exception as error:  # a bug must not leave the client waiting
            logger.error("reading from the upstream failed", extra={"kind": type(error).__name__})
            self._fail(UpstreamError("the upstream's answer could not be read"))
        finally:
            self._is_over = True
            self._has_more.set()

    def _fail(self, error: UpstreamError) -> None:
        self._error = error
        if not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # mark the exception as seen: perhaps nobody asks for it
