"""Connections before there is a request: how many, from where, and how long they may say nothing."""

import asyncio
import logging
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamward.errors import OverloadedError, RateLimitError, StreamwardError
from streamward.server.config import ListenConfig
from streamward.server.errors import error_response
from streamward.server.peers import Peers, name_of

_UNSAID = frozenset(
    {
        '%s - "WebSocket %s" [accepted]',
        '%s - "WebSocket %s" 403',
        '%s - "WebSocket %s" %d',
        "ASGI callable returned without completing handshake.",  # also if it was refused with a status
    }
)


def no_handshakes(record: logging.LogRecord) -> bool:
    """Filter of uvicorn's log: its lines on WebSockets hold paths as they came, and an error for each refusal."""
    return record.msg not in _UNSAID


class ConnectionLimits:
    """The connections of a service. Used from the event loop only."""

    def __init__(self, config: ListenConfig) -> None:
        """Start without connections."""
        self.config = config
        self._peers = Peers(config.trusted_proxies)
        self._num_by_peer: Counter[str] = Counter()
        # Connections without a request; the one that has waited longest comes first.
        self._waiting: dict[BoundedProtocol, None] = {}

    def admit(self, protocol: "BoundedProtocol", host: str, *, num_open: int) -> None:
        """Count a new connection, at the cost of the one that waits longest if there are too many.

        Raises:
            RateLimitError: The peer has too many.
            OverloadedError: There are too many, and all of them are at work.
        """
        peer = name_of(host)
        self._num_by_peer[peer] += 1
        most = self.config.max_connections_per_peer
        if self._num_by_peer[peer] > most and not self._peers.is_trusted(host):
            raise RateLimitError(f"this address's limit of {most} connections is reached", retry_after_s=1.0)
        if num_open > self.config.max_connections:
            if not self._waiting:
                raise OverloadedError(f"{self.config.max_connections} connections are open; try again later")
            next(iter(self._waiting)).drop()

    def leave(self, protocol: "BoundedProtocol", host: str) -> None:
        """Forget a connection."""
        self.note(protocol, is_waiting=False)
        peer = name_of(host)
        self._num_by_peer[peer] -= 1
        if not self._num_by_peer[peer]:
            del self._num_by_peer[peer]

    def note(self, protocol: "BoundedProtocol", *, is_waiting: bool) -> None:
        """Note whether a connection is without a request."""
        if is_waiting:
            self._waiting.setdefault(protocol)
        else:
            self._waiting.pop(protocol, None)


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which waits for a request's headers only so long, and answers only so many connections."""

    def __init__(self, *args: Any, connections: ConnectionLimits, **options: Any) -> None:  # Any: uvicorn's to say
        """Join the connections of a service."""
        super().__init__(*args, **options)
        self._all = connections
        self._patience: asyncio.TimerHandle | None = None
        self._host: str | None = None  # address of the peer while the connection is counted

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request, or refuse the connection."""
        super().connection_made(transport)
        self._host = "" if self.client is None else self.client[0]
        try:
            self._all.admit(self, self._host, num_open=len(self.connections))
        except StreamwardError as error:
            self._refuse(error)
        else:
            self._note()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._note()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the WebSocket, which `KeyGate` counts."""
        self._leave()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._leave()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close the connection: it asks for nothing."""
        self._leave()
        self.transport.abort()

    def _note(self) -> None:
        """Count the seconds from the end of a request to that of the next one's headers."""
        if self._host is None or self.transport.is_closing():
            return
        is_waiting = self.cycle is None or self.cycle.response_complete
        self._all.note(self, is_waiting=is_waiting)
        if is_waiting and self._patience is None:
            self._patience = self.loop.call_later(self._all.config.header_timeout_s, self.drop)
        elif not is_waiting:
            self._stop_waiting()

    def _leave(self) -> None:
        self._stop_waiting()
        if self._host is not None:
            self._all.leave(self, self._host)
            self._host = None

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self, error: StreamwardError) -> None:
        answer = error_response(error)
        reason = {429: "Too Many Requests"}.get(answer.status_code, "Service Unavailable")
        head = [f"HTTP/1.1 {answer.status_code} {reason}", "connection: close"]
        head += [f"{name}: {value}" for name, value in answer.headers.items()]
        self.transport.write("\r\n".join([*head, "", ""]).encode("latin-1") + bytes(answer.body))
        self.transport.close()
