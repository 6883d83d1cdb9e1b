"""Checks on every request before any route: its name, its host, the size, depth and pace of its body.

Who calls is found out between the two, by `streamward.server.gate`.
"""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamward.errors import InputError, OverloadedError, RateLimitError, RequestTooLargeError, StreamwardError
from streamward.observability import Metrics, defect
from streamward.server.config import LimitsConfig
from streamward.server.errors import answer_for, error_response
from streamward.server.records import new_id

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:\d+)?")
# Possessive, and content with an unclosed string, so that no body makes it slow.
_TOKENS = re.compile(rb'"(?>[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_LINGER_S = 0.5


class RequestContext:
    """Gives each request an id, counts it, and answers for defects without telling what was in them."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        wanted = Headers(scope=scope).get("x-request-id", "")
        state["request_id"] = wanted if _REQUEST_ID.fullmatch(wanted) else new_id("req")
        started_at = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = state["request_id"]
                headers.setdefault("x-content-type-options", "nosniff")
                headers.update(state.get("rate_headers", {}))
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception as error:  # a bug of ours: its message could contain moderated text
            logger.error("request failed", extra={"request_id": state["request_id"], **defect(error)})
            if status:
                raise ConnectionAbortedError("the answer cannot be finished") from None
            await error_response(StreamwardError("an unexpected error; see the service's log"))(
                scope, receive, send_marked
            )
        finally:
            if scope["type"] == "http":
                self._finish(scope, status, time.perf_counter() - started_at)

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", None) or "other"
        self._metrics.request_done(path, status=status, seconds=seconds)
        level = logging.DEBUG if path in _QUIET or scope["state"].get("is_flood") else logging.INFO
        facts = {
            "request_id": scope["state"]["request_id"],
            "route": path,
            "status": status,
            "error_code": scope["state"].get("error_code"),
            "duration_ms": round(seconds * 1000, 1),
        }
        logger.log(level, "request", extra=facts)


class HeadAsGet:
    """Answers HEAD as GET, without the body; what has no end ends at its first part."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        is_over = asyncio.Event()

        async def received() -> Message:
            await is_over.wait()
            return {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif not is_over.is_set():
                is_over.set()
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET"}, _replay(b"", received), sent)


class TrustedHosts:
    """Refuses requests whose Host header names another host, as after DNS rebinding.

    Starlette's TrustedHostMiddleware answers plain text instead of our error body and does not parse IPv6 literals.
    """

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        """Wrap an application."""
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in {"http", "websocket"}:
            match = _HOST.fullmatch(Headers(scope=scope).get("host", ""))
            if match is None or match[1].lower() not in self._hosts:
                error = InputError("the header Host names no host of this service (listen.allowed_hosts)")
                await refuse(scope, receive, send, error)
                return
        await self._app(scope, receive, send)


class _ClientDisconnected(StreamwardError):
    """The client is gone; nobody is left to answer."""


class BodyLimits:
    """Reads each body before its route runs, with limits on size, depth, time and buffered bytes per key.

    Starlette limits neither the nesting of a body, nor the time it takes, nor the buffered bytes per key.
    """

    def __init__(self, app: ASGIApp, *, config: LimitsConfig, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app = app
        self._config = config
        self._metrics = metrics
        self._num_buffered = 0
        self._by_key: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = scope["state"].get("caller")
        if caller is None:  # routes for everybody read no body
            await self._app(scope, _replay(b"", receive), send)
            return
        taken = bytearray()
        try:
            problem = await self._problem(scope, receive, taken, caller.key_id)
            if problem is None:
                await self._app(scope, _replay(bytes(taken), receive), send)
            elif not isinstance(problem, _ClientDisconnected):
                await self._refuse(scope, receive, send, problem)
        finally:
            self._num_buffered -= len(taken)
            self._by_key[caller.key_id] -= len(taken)
            if not self._by_key[caller.key_id]:
                del self._by_key[caller.key_id]
            self._metrics.buffered_bytes.set(self._num_buffered)

    async def _problem(self, scope: Scope, receive: Receive, taken: bytearray, key_id: str) -> StreamwardError | None:
        """Read the body, and say what is wrong with it."""
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                await self._read(scope, receive, taken, key_id)
            check_depth(taken, self._config.max_json_depth)
        except TimeoutError:
            return InputError("the body did not arrive in time")
        except StreamwardError as error:
            return error
        return None

    async def _read(self, scope: Scope, receive: Receive, taken: bytearray, key_id: str) -> None:
        headers = Headers(scope=scope)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise InputError("compressed bodies are not accepted")
        announced = headers.get("content-length", "0")
        if announced.isdecimal():
            self._check_size(int(announced))
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientDisconnected
            part = message.get("body", b"")
            self._check_size(len(taken) + len(part))
            self._check_room(len(taken), len(part), key_id)
            taken += part
            self._num_buffered += len(part)
            self._by_key[key_id] += len(part)
            if not message.get("more_body"):
                self._metrics.buffered_bytes.set(self._num_buffered)
                return

    def _check_room(self, num_taken: int, num_more: int, key_id: str) -> None:
        if self._num_buffered + num_more > self._config.max_buffered_bytes:
            raise OverloadedError("too many bodies are in memory; try again later")
        others = self._by_key[key_id] - num_taken
        if others and others + num_taken + num_more > self._config.max_buffered_bytes_per_key:
            raise RateLimitError("too many bodies of this key are in memory", retry_after_s=1.0)

    def _check_size(self, num_bytes: int) -> None:
        most = self._config.max_body_bytes
        if num_bytes > most:
            raise RequestTooLargeError(
                f"the body is too large; at most {most} bytes are accepted (limits.max_body_bytes)"
            )

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: StreamwardError) -> None:
        self._metrics.rejected(error.code)
        scope["state"]["error_code"] = error.code
        await refuse(scope, receive, send, error)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body, then whatever comes after it."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def check_depth(body: bytes | bytearray, most: int) -> None:
    """Refuse JSON of more objects and lists within each other than parsers bear.

    Raises:
        InputError: It is too deep.
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return
    depth = 0
    for match in _TOKENS.finditer(body):
        first = body[match.start()]
        if first in b"[{":
            depth += 1
            if depth > most:
                raise InputError(f"the body is nested too deeply; at most {most} levels are accepted")
        elif first in b"]}":
            depth -= 1


async def refuse(scope: Scope, receive: Receive, send: Send, error: StreamwardError) -> None:
    """Answer with an error instead of passing a request on.

    The answer does not wait for the request's body. Where that is not there yet, what arrives of it in the next moment
    is thrown away, so that the client is not cut off while it still writes; then the connection is closed.
    """
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": answer_for(error).close_code, "reason": ""})
        return
    response: Response = error_response(error)
    if scope["type"] == "websocket" or ("expect" not in Headers(scope=scope) and await _is_read(receive, within_s=0)):
        await response(scope, receive, send)
        return
    response.headers["connection"] = "close"

    async def sent(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, receive, sent)
    await _is_read(receive, within_s=_LINGER_S)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _is_read(receive: Receive, *, within_s: float) -> bool:
    """Throw a body away. Returns whether all of it was there in time."""
    try:
        async with asyncio.timeout(within_s):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        return False
    return True


def request_id(request: Request) -> str:
    """Return the id that the answer carries as `x-request-id`."""
    return str(request.state.request_id)
