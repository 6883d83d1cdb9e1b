"""Connections to an upstream. One that was kept alive and has died in the meantime costs no request."""

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable

import httpcore
import httpx

_KEPT_S = 5.0


class UpstreamConnections(httpx.AsyncBaseTransport):
    """Sends requests over connections that are used again.

    A server may close a connection just when the next request is on its way. Such a request is sent once more, over a
    new connection, if not one byte of an answer had come. Bodies must be bytes, so that they can be sent again. Errors
    are those of `httpcore`.
    """

    def __init__(self, *, certificates: ssl.SSLContext, max_connections: int, max_kept: int) -> None:
        """Open nothing yet."""
        self._kept = _pool(certificates, max_connections, max_kept)
        self._fresh = _pool(certificates, max_connections, 0)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer as soon as the headers are there."""
        try:
            answer = await self._kept.handle_async_request(_request(request))
        except _StaleError:
            answer = await self._fresh.handle_async_request(_request(request))
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=dict(answer.extensions)
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._kept.aclose()
        await self._fresh.aclose()


def _pool(certificates: ssl.SSLContext, max_connections: int, max_kept: int) -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(
        ssl_context=certificates,
        max_connections=max_connections,
        max_keepalive_connections=max_kept,
        keepalive_expiry=_KEPT_S,
        network_backend=_Network(),
    )


def _request(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        request.method,
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._answer.stream, AsyncIterable), "it comes from an asynchronous pool"
        async for part in self._answer.stream:
            yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


class _StaleError(httpcore.ReadError):
    """A connection that has given answers before gave not one byte of this one."""


class _Network(httpcore.AsyncNetworkBackend):
    """The network, over sockets that know what came."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Socket(await self._network.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class _Socket(httpcore.AsyncNetworkStream):
    """A connection that tells whether it died between two answers."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._is_used_again = False
        self._has_answered = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data = await self._stream.read(max_bytes, timeout)
        except httpcore.ReadError as error:
            self._check(error)
            raise
        if not data:
            self._check(None)
        self._has_answered |= bool(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._has_answered:  # data written from now on belongs to the next request
            self._is_used_again, self._has_answered = True, False
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Socket(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)

    def _check(self, error: Exception | None) -> None:
        if self._is_used_again and not self._has_answered:
            raise _StaleError("the connection was closed before an answer came") from error
