"""The gateway: guarded models by name."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from streamward.errors import InputError
from streamward.gateway.call_record import GatewayCall, GatewayResponse, Observer, SilentObserver
from streamward.gateway.config import GatewayLimits
from streamward.gateway.embeddings import EmbeddingsCall
from streamward.gateway.guard import OpenGuard
from streamward.gateway.report import Describe
from streamward.gateway.session import GatewaySession
from streamward.gateway.state_seal import state_seals
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.upstream import Upstream


class Gateway:
    """Stands in front of configured upstreams. One event loop; close it."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        open_guard: OpenGuard,
        *,
        limits: GatewayLimits,
        describe: Describe,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Put a guard in front of servers.

        Args:
            upstreams: By the name that requests use; owned by the gateway from now on.
            open_guard: Opens guard streams.
            limits: Bounds of each answer.
            describe: Writes a judgement as OpenAI's moderation result.
            clock: In seconds.

        Raises:
            ConfigError: The environment variable that should hold the key of seals does not.
        """
        self._upstreams = upstreams
        self._open_guard = open_guard
        self._seal = state_seals(limits.state_key())
        self._limits = limits
        self._describe = describe
        self._clock = clock

    def knows(self, upstream: str) -> bool:
        """Return whether a server of this name is configured."""
        return upstream in self._upstreams

    async def models(self, upstream: str) -> list[JsonObject]:
        """Return the models of a configured server; see `Upstream.models`.

        Raises:
            InputError: There is no such upstream.
            UpstreamError: It does not say.
        """
        return await self._named(upstream).models()

    @asynccontextmanager
    async def answer(self, call: GatewayCall, *, observer: Observer | None = None) -> AsyncIterator[GatewayResponse]:
        """Answer one call. The answer is good within the `async with` block; leaving it ends what is not over.

        Args:
            call: The request.
            observer: Is told what happens.

        Raises:
            InputError: There is no such upstream, or the request is malformed or has what the gateway refuses.
            StreamwardError: The prompt could not be judged, and the policy blocks what it cannot judge.
        """
        upstream, observer = self._named(call.upstream), SilentObserver() if observer is None else observer
        if call.format == "embeddings":
            yield await EmbeddingsCall(
                call,
                upstream,
                open_guard=self._open_guard,
                limits=self._limits,
                observer=observer,
                clock=self._clock,
            ).answer()
            return
        session = GatewaySession(
            call,
            upstream,
            upstreams=self._upstreams,
            open_guard=self._open_guard,
            seal=self._seal(call.tenant, call.upstream),
            limits=self._limits,
            describe=self._describe,
            observer=observer,
            clock=self._clock,
        )
        try:
            yield await session.answer()
        finally:
            await session.aclose()

    def _named(self, name: str) -> Upstream:
        upstream = self._upstreams.get(name)
        if upstream is None:
            raise InputError("there is no upstream of this name")
        return upstream

    async def aclose(self) -> None:
        """Close the connections to the upstreams."""
        for upstream in self._upstreams.values():
            await upstream.aclose()
