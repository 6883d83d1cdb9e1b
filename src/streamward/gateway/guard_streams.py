"""Opens the guard streams of one call, and closes them all at the end."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from streamward.decisions import ALLOWED
from streamward.errors import OverloadedError
from streamward.gateway.config import GatewayLimits, ReleaseConfig, ReleaseRules
from streamward.gateway.deadline import GuardDeadline
from streamward.gateway.field_guard import FieldGuard
from streamward.gateway.guard import JudgedStream, OpenGuard
from streamward.gateway.text_fields import ENVELOPE, ERROR
from streamward.gateway.wire import WireFormat
from streamward.policy import Policy
from streamward.schema import Event, Message, Result, SideResult

_FIRST_WAIT_S = 0.05
_NAMES = {ENVELOPE: "envelope", ERROR: "error"}


class GuardStreamFactory:
    """Opens guard streams under one policy, and field guards over them.

    It knows nobody who asks it to, so that a call that is over holds no circle of references: its verdicts are freed at
    once, not when the garbage collector comes by.
    """

    def __init__(
        self,
        open_guard: OpenGuard,
        wire: WireFormat,
        *,
        policy: Policy,
        release: ReleaseConfig,
        rules: ReleaseRules,
        limits: GatewayLimits,
        on_judged: Callable[[str, str, Sequence[Event]], None],
        on_truncated: Callable[[str, int, int], None],
    ) -> None:
        """Open nothing yet."""
        self.policy = policy
        self._open_guard = open_guard
        self._request = wire.request
        self.release = release
        self._rules = rules
        self._limits = limits
        self._on_judged = on_judged
        self._on_truncated = on_truncated
        self.deadline = GuardDeadline(limits.guard_timeout_s)
        """Deadline for waiting text; begin it before anything is opened or judged."""
        self._stack = AsyncExitStack()
        self.holds_whole = False
        """True if no text of the answer leaves before its end."""
        self._num_open = 0
        self._num_readers: Counter[int] = Counter()  # number of readers by choice

    async def aclose(self) -> None:
        """Close all streams, also on cancellation."""
        await asyncio.shield(self._stack.aclose())

    @asynccontextmanager
    async def brief(self, messages: Sequence[Message]) -> AsyncIterator[JudgedStream]:
        """Open a stream for the time of an `async with` block, up to the deadline."""
        async with self.deadline.timeout(), self._open_guard(messages, self.policy) as stream:
            yield stream

    async def stream(self, messages: Sequence[Message]) -> JudgedStream:
        """Open a stream that is closed with all others.

        Raises:
            StreamwardError: The guard failed, or has no room for longer than is to be waited.
            TimeoutError: The guard took too long.
        """
        wait_s, waited_s = _FIRST_WAIT_S, 0.0
        while True:
            try:
                async with self.deadline.timeout():
                    stream = await self._stack.enter_async_context(self._open_guard(messages, self.policy))
                self._num_open += 1
                return stream
            except OverloadedError:
                if waited_s + wait_s > self._limits.overload_wait_s:
                    raise
                await asyncio.sleep(wait_s)
                waited_s, wait_s = waited_s + wait_s, wait_s * 2

    async def reader(self, group: int, *, messages: Sequence[Message] | None = None) -> FieldGuard:
        """Open a field guard for a choice. It never fails: where no stream can be opened, it has failed.

        Args:
            group: The choice.
            messages: What it answers; by default the choice's prompt.
        """
        if messages is None:
            messages = self._request.prompt_of(group).messages
        try:
            if self._num_open >= self._limits.max_guard_streams:
                raise OverloadedError("the answer needs more guard streams than max_guard_streams allows")
            return self.reader_of(await self.stream(messages), group, messages)
        except Exception as error:  # after any error: text that was not judged must not leave
            reader = self.reader_of(_UnopenedStream(), group, messages)
            reader.fail(error)
            return reader

    def reader_of(self, stream: JudgedStream, group: int, messages: Sequence[Message]) -> FieldGuard:
        """Put a field guard of a choice over a stream, which has read the messages."""
        place = self._num_readers[group]
        self._num_readers[group] += 1
        name = _NAMES.get(group, str(group))
        reader = FieldGuard(
            stream,
            name=f"{name}.{place}" if place else name,
            policy=self.policy,
            hold_tokens=self._rules.hold_tokens,
            overload_wait_s=self._limits.overload_wait_s,
            deadline=self.deadline,
            on_judged=self._on_judged,
            on_truncated=self._on_truncated,
            reopen=partial(self.stream, messages) if self._rules.mode == "intervene" else None,
        )
        reader.held_from = 0 if self.holds_whole else None
        return reader


class _UnopenedStream:
    """Stands where no stream could be opened."""

    prompt: SideResult | None = None
    decision = ALLOWED
    releasable_chars = 0

    async def feed(self, piece: str) -> list[Event]:
        raise AssertionError("nothing is fed to a guard that has failed")

    feed_reasoning = feed

    async def truncate(self, num_chars: int) -> list[Event]:
        raise AssertionError("nothing is dropped from a guard that has failed")

    async def finish(self) -> Result:
        raise AssertionError("a guard that has failed is not finished")
