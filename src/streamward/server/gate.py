"""Authentication by headers, before a request body is read or a WebSocket is accepted."""

import asyncio
from contextlib import ExitStack, suppress

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from streamward.errors import InputError, RateLimitError, StreamwardError
from streamward.server.auth import Caller, identify
from streamward.server.middleware import refuse
from streamward.server.state import ServiceState

_OPEN = frozenset({"/", "/health", "/ready", "/metrics", "/openapi.json"})
_OPEN_FOLDER = "/assets/"
_REFUSALS_PER_S = 50  # refusals of one peer; further ones wait
_PENALTY_S = 1.0
_SPARE_REQUESTS = 16  # beyond what a key may have judged at the same time: they show something, or still arrive


def is_open(path: str) -> bool:
    """Return True if a path is public: it needs no key, and no body is read for it."""
    return path in _OPEN or path.startswith(_OPEN_FOLDER)


class KeyGate:
    """Lets in who may call, and not too much of one key or peer at the same time."""

    def __init__(self, app: ASGIApp, *, state: ServiceState) -> None:
        """Wrap an application."""
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its caller in `state.caller`, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        with ExitStack() as held:
            try:
                self._check_headers(scope)
                if not is_open(scope["path"]):
                    scope["state"]["caller"] = caller = await identify(HTTPConnection(scope))
                    self._hold(scope, caller, held)
            except StreamwardError as error:
                held.close()
                self._state.metrics.rejected(error.code)
                scope["state"]["error_code"] = error.code
                scope["state"]["is_flood"] = isinstance(error, RateLimitError)
                await self._slow_down(scope)
                with suppress(OSError):  # the client is gone
                    await refuse(scope, receive, send, error)
                return
            await self._app(scope, receive, send)

    async def _slow_down(self, scope: Scope) -> None:
        """Let a peer wait that is refused all the time, so that its refusals cost others little."""
        peer = self._state.peers.of(scope)
        if self._state.refusals.take(peer, most=_REFUSALS_PER_S):
            await asyncio.sleep(_PENALTY_S)

    def _check_headers(self, scope: Scope) -> None:
        most = self._state.config.listen.max_header_bytes
        if sum(len(name) + len(value) for name, value in scope["headers"]) > most:
            raise InputError(f"the headers are too large; at most {most} bytes are accepted")

    def _hold(self, scope: Scope, caller: Caller, held: ExitStack) -> None:
        """Take a place of the key and one of the peer until the request is answered."""
        places, config = self._state.places, self._state.config
        kind = "WebSockets" if scope["type"] == "websocket" else "requests"
        most = caller.limits.max_concurrent + _SPARE_REQUESTS
        if scope["type"] == "websocket":
            most = config.streams.max_sockets_per_key
        holder = f"{kind} of key {caller.key_id}"
        held.enter_context(places.held(holder, most=most, told=f"the key's limit of {kind}"))
        peer = self._state.peers.of(scope)
        if not self._state.peers.is_trusted(peer):
            most = config.listen.max_connections_per_peer
            told = f"this address's limit of {kind}"
            held.enter_context(places.held(f"{kind} from {peer}", most=most, told=told))
