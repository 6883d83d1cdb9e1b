"""WebSocket connections to a service, blocking and for asyncio: the steps of a stream's protocol are performed here."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from ssl import SSLContext
from typing import TypedDict, TypeVar

from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from streamward.client.replies import error_of_response
from streamward.client.stream_protocol import ConnectionLostError, Do, Step, Steps
from streamward.errors import StreamwardError, UpstreamError
from streamward.reasons import reason_of

T = TypeVar("T")
_SUBPROTOCOL = Subprotocol("streamward")
_MAX_REPLY_BYTES = 2**26
_LOST = (ConnectionClosed, InvalidHandshake, OSError, TimeoutError)
_LATE = "the service does not reply in time"


class _Options(TypedDict, total=False):
    additional_headers: Mapping[str, str]
    subprotocols: list[Subprotocol]
    open_timeout: float
    close_timeout: float
    max_size: int
    ssl: SSLContext


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The service at which streams are opened.

    Attributes:
        url: Address, `ws://` or `wss://`.
        headers: Headers of the request that opens the connection; the API key is in them.
        timeout_s: Longest wait for a connection or a reply, in seconds.
        ssl_context: For `wss://`; None for the system's certificates.
    """

    url: str
    headers: Mapping[str, str]
    timeout_s: float
    ssl_context: SSLContext | None = None

    def options(self) -> _Options:
        """Return the arguments of both kinds of connections."""
        options: _Options = {
            "additional_headers": self.headers,
            "subprotocols": [_SUBPROTOCOL],
            "open_timeout": self.timeout_s,
            "close_timeout": 1.0,
            "max_size": _MAX_REPLY_BYTES,
        }
        if self.ssl_context is not None:
            options["ssl"] = self.ssl_context
        return options


class BlockingSocket:
    """Performs steps in the calling thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect to nothing yet."""
        self._endpoint = endpoint
        self._connection: ClientConnection | None = None
        self._held = ExitStack()

    def run(self, steps: Steps[T]) -> T:
        """Perform steps to their end and return their result."""
        try:
            step = next(steps)
            while True:
                try:
                    received = self._perform(step)
                except _LOST as error:
                    step = steps.throw(_lost(error))
                else:
                    step = steps.send(received)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # the generator's type says T

    def drop(self) -> None:
        """Close the connection, if there is one."""
        self._connection = None
        self._held.close()

    def _perform(self, step: Step) -> str:
        if step.do is Do.CONNECT:
            self._connection = self._held.enter_context(connect(self._endpoint.url, **self._endpoint.options()))
        elif step.do is Do.DROP:
            self.drop()
        elif step.do is Do.WAIT:
            time.sleep(step.seconds)
        elif self._connection is None:
            raise OSError(None, "the connection broke")
        elif step.do is Do.SEND:
            self._connection.send(step.text)
        else:
            try:
                return _text(self._connection.recv(timeout=self._endpoint.timeout_s))
            except TimeoutError as error:
                raise UpstreamError(_LATE) from error
        return ""


class AsyncSocket:
    """Performs steps in the running event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect to nothing yet."""
        self._endpoint = endpoint
        self._connection: AsyncConnection | None = None
        self._held = AsyncExitStack()

    async def run(self, steps: Steps[T]) -> T:
        """Perform steps to their end and return their result."""
        try:
            step = next(steps)
            while True:
                try:
                    received = await self._perform(step)
                except _LOST as error:
                    step = steps.throw(_lost(error))
                else:
                    step = steps.send(received)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # the generator's type says T

    async def drop(self) -> None:
        """Close the connection, if there is one."""
        self._connection = None
        await self._held.aclose()

    async def _perform(self, step: Step) -> str:
        if step.do is Do.CONNECT:
            opening = connect_async(self._endpoint.url, **self._endpoint.options())
            self._connection = await self._held.enter_async_context(opening)
        elif step.do is Do.DROP:
            await self.drop()
        elif step.do is Do.WAIT:
            await asyncio.sleep(step.seconds)
        elif self._connection is None:
            raise OSError(None, "the connection broke")
        elif step.do is Do.SEND:
            await self._connection.send(step.text)
        else:
            try:
                async with asyncio.timeout(self._endpoint.timeout_s):
                    return _text(await self._connection.recv())
            except TimeoutError as error:
                raise UpstreamError(_LATE) from error
        return ""


def _text(received: str | bytes) -> str:
    return received if isinstance(received, str) else received.decode()


def _lost(error: Exception) -> Exception:
    """Return what a failed operation means: the service's refusal, or that there is no connection."""
    if isinstance(error, InvalidStatus):
        response = error.response
        told: StreamwardError = error_of_response(response.status_code, response.headers, response.body or b"")
        is_refusal = response.status_code < 500 or not isinstance(told, UpstreamError)
        return told if is_refusal else ConnectionLostError(str(told))
    if isinstance(error, ConnectionClosed):
        return ConnectionLostError("the connection broke")
    return ConnectionLostError(reason_of(error))
