"""Services over small guards, in this process or on a loopback port."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn
from fastapi import FastAPI

from streamward.moderation.guard import Guard
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.server.app import create_app
from streamward.server.config import ServeConfig
from streamward.server.connections import BoundedProtocol, ConnectionLimits
from streamward.server.state import ServiceState, open_state
from tests.moderation.guards import stream_guard


class Service(NamedTuple):
    """An application and what it works with."""

    app: FastAPI
    state: ServiceState

    def run(self, use: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        """Use the service through a client, in an event loop of its own, without what runs beside the routes."""

        async def used() -> Any:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await use(client)

        return asyncio.run(used())

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Make one request."""
        return self.run(lambda client: client.request(method, path, **arguments))

    def post(self, path: str, body: object, **arguments: Any) -> httpx.Response:
        """Post JSON."""
        return self.request("POST", path, json=body, **arguments)

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        """Get."""
        return self.request("GET", path, **arguments)

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric's value; 0 if it was never counted."""
        return self.state.metrics.registry.get_sample_value(name, labels) or 0.0

    def key(self, tenant: str = "acme", **facts: object) -> dict[str, str]:
        """Make an API key; return the header that carries it."""
        secret, _ = self.state.keys.create(tenant, **facts)
        return {"Authorization": f"Bearer {secret}"}


def settings(folder: Path, **changes: Any) -> ServeConfig:
    """Settings without keys and with a database of their own; `changes` are tables."""
    values: dict[str, Any] = {
        "auth": {"required": False, "cache_s": 0},
        "store": {"url": f"sqlite:///{folder / 'service.sqlite3'}", "timeout_s": 5.0},
        "limits": {"drain_s": 5.0},
    }
    for table, settings_of_it in changes.items():
        if isinstance(settings_of_it, dict):
            values[table] = {**values.get(table, {}), **settings_of_it}
        else:
            values[table] = settings_of_it
    return ServeConfig.parse(values, source="test")


@contextmanager
def open_service(folder: Path, *, guard: Guard | None = None, **changes: Any) -> Iterator[Service]:
    """A service over a small guard with random weights."""
    config = settings(folder, **changes)
    moderator = Moderator(
        guard or stream_guard(), policy=Policy.load("strict"), max_chars=config.limits.max_chars, max_workers=16
    )
    state = open_state(config, moderator=moderator)
    try:
        yield Service(create_app(config, state=state), state)
    finally:
        state.close()


def bounded(service: Service) -> Any:
    """Return the protocol that `streamward serve` speaks, for `served`."""
    return partial(BoundedProtocol, connections=ConnectionLimits(service.state.config.listen))


@contextmanager
def served(app: FastAPI, **options: Any) -> Iterator[str]:
    """Serve an application on a loopback port; yields its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, ws="websockets-sansio", lifespan="on", **options)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        (listening,) = server.servers[0].sockets
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
