"""Asks upstreams to continue the choices of one call, and to rewrite passages."""

from collections.abc import Awaitable, Mapping
from typing import Protocol, TypeVar

from streamward.errors import UpstreamError
from streamward.gateway.config import GatewayLimits
from streamward.gateway.continuation import ContinuationRequest, ContinuationWriter, rewriting
from streamward.gateway.continuation_reader import ContinuationReader
from streamward.gateway.upstream import Upstream
from streamward.gateway.upstream_usage import UpstreamUsage
from streamward.gateway.wire import ClientRequest
from streamward.intervene.generation import GenerationPrefix
from streamward.ladder import LadderStep

T = TypeVar("T")


class WithinCall(Protocol):
    """Waits for something of an upstream, but not beyond the call's time."""

    def __call__(self, work: Awaitable[T]) -> Awaitable[T]:
        """Return the result; raises an UpstreamError."""
        ...


class ContinuationCalls:
    """The further requests that the choices of one call make when they are changed."""

    def __init__(
        self,
        request: ClientRequest,
        writer: ContinuationWriter,
        *,
        upstream: Upstream,
        upstreams: Mapping[str, Upstream],
        limits: GatewayLimits,
        within: WithinCall,
    ) -> None:
        """Ask nothing yet.

        Args:
            request: The client's.
            writer: Writes requests that go on.
            upstream: The server that answers.
            upstreams: All that are configured, by name.
            limits: Bounds of each answer.
            within: Bounds the time.
        """
        self.usage = UpstreamUsage()
        """Tokens of all calls."""
        self._request = request
        self._writer = writer
        self._upstream = upstream
        self._upstreams = upstreams
        self._limits = limits
        self.within = within

    @property
    def can_continue(self) -> bool:
        """True if the upstream can go on with a text."""
        return self._writer.can_continue

    @property
    def counts_always(self) -> bool:
        """True if the upstream can state its tokens with every event, as vLLM and SGLang do."""
        return self._upstream.config.prefill == "continue_final_message"

    @property
    def can_begin_anew(self) -> bool:
        """True if it can be asked for another answer."""
        return self._writer.can_begin_anew

    def can_rewrite(self, step: LadderStep) -> bool:
        """Return whether there is a server that a step has passages rewritten by."""
        return step.upstream is None or step.upstream in self._upstreams

    def begin(self, group: int, prefix: GenerationPrefix, *, num_spent: int) -> ContinuationReader:
        """Ask the upstream to go on with a choice; see `ContinuationWriter.write`."""
        return self._open(self._upstream, self._writer.write(group, prefix, num_spent=num_spent))

    async def rewrite(self, step: LadderStep, instruction: str, passage: str) -> str:
        """Have a passage rewritten.

        Raises:
            UpstreamError: The server failed.
        """
        upstream = self._upstream if step.upstream is None else self._upstreams[step.upstream]
        reader = self._open(upstream, rewriting(self._request, instruction, passage, model=step.model))
        text = ""
        try:
            while (piece := await self.within(reader.next())) is not None:
                text += piece
        finally:
            await reader.aclose()
            self.usage.add(reader.usage, num_read=0)
        if not text.strip():
            raise UpstreamError("the upstream rewrote nothing")
        return text.strip()

    def _open(self, upstream: Upstream, request: ContinuationRequest) -> ContinuationReader:
        return ContinuationReader(upstream, request, limits=self._limits)
