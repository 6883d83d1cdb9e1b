"""The application: routes, what stands before them, and what runs beside them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from streamward.errors import ConfigError
from streamward.observability import defect
from streamward.server import (
    admin,
    chat,
    console,
    console_data,
    guard,
    health,
    litellm,
    moderations,
    proxy,
    stream_socket,
    streams,
)
from streamward.server.audit_reading import purge
from streamward.server.config import ServeConfig
from streamward.server.disconnects import CancelOnDisconnect
from streamward.server.errors import ERRORS, install_error_handlers
from streamward.server.gate import KeyGate
from streamward.server.line_ends import EscapedLineEnds
from streamward.server.middleware import BodyLimits, HeadAsGet, RequestContext, TrustedHosts
from streamward.server.openapi import complete_openapi
from streamward.server.session_registry import StreamRegistry
from streamward.server.state import ServiceState, open_state

logger = logging.getLogger(__name__)

_SWEEP_S = 1.0
_GRACE_S = 0.2  # after `limits.drain_s`: for what was cancelled to end
_TASKS_S = 0.3  # after `limits.drain_s`: time for background tasks to end
_STREAMS_S = 0.4  # after `limits.drain_s`: time for the streams to end

_EXPOSED_HEADERS = (
    "x-request-id",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "retry-after",
)


def create_app(config: ServeConfig, *, state: ServiceState | None = None) -> FastAPI:
    """Return the service as an ASGI application.

    Args:
        config: Its settings.
        state: What it works with, which the caller closes; by default it is opened here, and closed when the
            application shuts down.
    """
    live = state or open_state(config)
    registry = StreamRegistry(live)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        try:
            async with _running(live, registry):
                yield
        finally:
            if state is None:
                await asyncio.to_thread(live.close)

    app = FastAPI(
        title="Streamward",
        version=version("streamward"),
        description="Moderation service and streaming gateway.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from another host
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.service = live
    app.state.streams = registry
    app.state.gateway = proxy.guarded_models(live)
    install_error_handlers(app)
    _add_routes(app, config)
    _add_middleware(app, config, live)
    complete_openapi(app)
    return app


@asynccontextmanager
async def _running(state: ServiceState, registry: StreamRegistry) -> AsyncIterator[None]:
    """Run what belongs beside the requests; at the end let them finish, and close the streams."""
    tasks = [asyncio.create_task(task) for task in _background(state, registry)]
    try:
        yield
    finally:
        await state.admission.drain(grace_s=_GRACE_S)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=min(_GRACE_S, state.admission.until(_TASKS_S)))
        await registry.close(timeout_s=state.admission.until(_STREAMS_S))


def _add_routes(app: FastAPI, config: ServeConfig) -> None:
    for module in (health, admin, moderations, guard, chat, streams, stream_socket, litellm):
        app.include_router(module.router, responses=ERRORS)
    if config.console.enabled:
        app.include_router(console.router)
        app.include_router(console_data.router)
    app.include_router(proxy.router)  # last, because its paths begin with any name


def _add_middleware(app: FastAPI, config: ServeConfig, state: ServiceState) -> None:
    """Put what stands before the routes, innermost first."""
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyLimits, config=config.limits, metrics=state.metrics)
    app.add_middleware(KeyGate, state=state)
    if config.listen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.listen.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=_EXPOSED_HEADERS,
        )
    if config.listen.hosts:
        app.add_middleware(TrustedHosts, hosts=config.listen.hosts)
    app.add_middleware(RequestContext, metrics=state.metrics)
    app.add_middleware(EscapedLineEnds)


def _background(state: ServiceState, registry: StreamRegistry) -> list[Coroutine[None, None, None]]:
    """Return what runs beside the requests."""
    return [
        _repeat(lambda: _reload_policies(state), every_s=state.config.policies.reload_s),
        _repeat(registry.sweep, every_s=_SWEEP_S),
        _repeat(lambda: _purge(state), every_s=state.config.audit.purge_every_s),
    ]


async def _repeat(work: Callable[[], Awaitable[None]], *, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await work()
        except Exception as error:  # the next attempt may succeed
            logger.error("background work failed", extra=defect(error))


async def _reload_policies(state: ServiceState) -> None:
    with suppress(ConfigError):  # `reload` logs and counts it; the former policies stay in force
        await asyncio.to_thread(state.policies.reload)


async def _purge(state: ServiceState) -> None:
    days = state.config.audit.retention_days
    done = await asyncio.to_thread(lambda: purge(state.engine, now=datetime.now(UTC), retention_days=days))
    if any(done):
        logger.info("old decisions deleted", extra={"num_rows": done.num_rows, "num_texts": done.num_texts})
