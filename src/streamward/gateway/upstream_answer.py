"""The answer that an upstream gives to one call, within the call's time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streamward.errors import UpstreamError
from streamward.gateway.config import GatewayLimits
from streamward.gateway.reported_errors import ReportedError
from streamward.gateway.state_seal import StateSeal
from streamward.gateway.stream_decoder import StreamDecoder
from streamward.gateway.upstream import Upstream, UpstreamTimeoutError
from streamward.gateway.upstream_reader import UpstreamHead, UpstreamReader
from streamward.gateway.wire import WireFormat

T = TypeVar("T")


class UpstreamAnswer:
    """Asks once, and reads what comes. Close it: that ends the request."""

    def __init__(
        self,
        upstream: Upstream,
        wire: WireFormat,
        path: str,
        *,
        seal: StateSeal,
        limits: GatewayLimits,
        clock: Callable[[], float],
        ends_at: float,
    ) -> None:
        """Ask nothing yet.

        Args:
            upstream: The server.
            wire: Format of request and answer.
            path: Behind the server's base URL.
            seal: Seals the state that upstreams want back.
            limits: Bounds of the answer.
            clock: In seconds.
            ends_at: Time of the clock after which nothing is waited for.
        """
        self._upstream = upstream
        self._wire = wire
        self._path = path
        self._seal = seal
        self._limits = limits
        self._clock = clock
        self._ends_at = ends_at
        self._reader: UpstreamReader | None = None

    @property
    def has_begun(self) -> bool:
        """True if the upstream was asked."""
        return self._reader is not None

    @property
    def came_at(self) -> float:
        """See `UpstreamReader`."""
        return self._asked.came_at

    def begin(self) -> None:
        """Send the request."""
        self._reader = UpstreamReader(
            self._upstream, self._path, self._wire.request.body, max_ahead_bytes=self._limits.max_ahead_bytes
        )

    async def head(self) -> UpstreamHead:
        """Wait for the headers.

        Raises:
            UpstreamError: There are none.
        """
        return await self.within(self._asked.head())

    async def read_all(self) -> bytes:
        """Wait for all of it.

        Raises:
            UpstreamError: It broke off, came too late or is too long.
        """
        parts: list[bytes] = []
        size = 0
        while (batch := await self.within(self._asked.next())) is not None:
            parts += batch
            size += sum(map(len, batch))
            if size > self._limits.max_answer_bytes:
                raise UpstreamError(f"the upstream's answer is longer than {self._limits.max_answer_bytes} bytes")
        return b"".join(parts)

    def decoder(self) -> StreamDecoder:
        """Return what takes a streamed answer apart."""
        return StreamDecoder(
            self._wire,
            seal=self._seal,
            max_event_bytes=self._limits.max_event_bytes,
            max_answer_bytes=self._limits.max_answer_bytes,
        )

    async def next(self, decoder: StreamDecoder) -> list[bytes] | None:
        """Wait for more of a streamed answer; None at its end, also where it fails, which the decoder then knows."""
        try:
            return await self.within(self._asked.next())
        except UpstreamError as error:
            decoder.fail(error)
            return None

    async def unwanted(self) -> UpstreamError:
        """Return what is wrong with a stream that was not asked for: the error that it begins with, if it does."""
        decoder = self.decoder()
        while not decoder.is_over and not decoder.take(await self.next(decoder)):
            pass
        if isinstance(decoder.error, ReportedError):
            return decoder.error
        return UpstreamError("the upstream streamed what was not to be streamed")

    async def within(self, work: Awaitable[T]) -> T:
        """Wait for an upstream, but not beyond the call's time.

        Raises:
            UpstreamTimeoutError: It took longer.
        """
        try:
            async with asyncio.timeout(max(0.0, self._ends_at - self._clock())):
                return await work
        except TimeoutError as error:
            raise UpstreamTimeoutError(
                f"the upstream did not end its answer within {self._limits.max_answer_s} s (max_answer_s)"
            ) from error

    async def aclose(self, *, drains: bool = False) -> None:
        """End the request.

        Args:
            drains: Give an answer that is over a moment to end by itself.
        """
        if self._reader is not None:
            if drains:
                await self._reader.drain()
            await self._reader.aclose()

    @property
    def _asked(self) -> UpstreamReader:
        assert self._reader is not None, "the upstream was asked"
        return self._reader
