"""A TCP proxy that breaks connections where a test says so."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards connections to a server, and breaks each after so many messages from its client."""

    def __init__(self, url: str, budgets: list[int], *, is_forwarded: bool) -> None:
        """Listen on a free port.

        Args:
            url: The server.
            budgets: For each connection in order: messages of the client that pass; none is cut after the last.
            is_forwarded: Whether the message that breaks the connection still reaches the server.
        """
        self._target = (urlsplit(url).hostname, urlsplit(url).port)
        self._budgets = budgets
        self._is_forwarded = is_forwarded
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.num_connections = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening, and break everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            _break(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                budget = self._budgets[self.num_connections] if self.num_connections < len(self._budgets) else None
                self.num_connections += 1
                self._open += [client, server]
                threading.Thread(target=self._forward, args=(client, server, budget), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, None), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, budget: int | None) -> None:
        with suppress(OSError):
            num_passed = -1  # the request that opens the WebSocket is no message
            while data := source.recv(65536):
                if budget is not None and num_passed >= budget:
                    if self._is_forwarded:
                        target.sendall(data)
                    break
                num_passed += 1
                target.sendall(data)
        _break(source)
        _break(target)


def _break(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def cutting(url: str, *budgets: int, is_forwarded: bool = False) -> Iterator[CuttingProxy]:
    """Open a proxy for a block."""
    proxy = CuttingProxy(url, list(budgets), is_forwarded=is_forwarded)
    try:
        yield proxy
    finally:
        proxy.close()
