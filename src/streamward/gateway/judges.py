"""The guard streams of one call: the prompt's, and those that read the answer."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from streamward.errors import OverloadedError, StreamwardError
from streamward.gateway.config import GatewayLimits, ReleaseConfig
from streamward.gateway.fields import Fields
from streamward.gateway.guard import JudgedStream, OpenGuard
from streamward.gateway.reader import Reader, as_known
from streamward.gateway.slots import ENVELOPE
from streamward.gateway.wire import Prompt, WireFormat
from streamward.policy import ALLOWED, Policy, combine, decide_error
from streamward.schema import Action, Decision, Event, Judgement, Message, Result, Side

_FIRST_WAIT_S = 0.05


class Judges:
    """Opens guard streams under one policy and closes them all at the end."""

    def __init__(
        self,
        open_guard: OpenGuard,
        wire: WireFormat,
        *,
        policy: Policy,
        release: ReleaseConfig,
        limits: GatewayLimits,
        on_judged: Callable[[str, str, Sequence[Event]], None],
    ) -> None:
        """Open nothing yet."""
        self.fields = Fields(self._open_reader)
        self.prompts: list[tuple[Judgement | None, Decision]] = []
        """What the guard said of each prompt, and what follows."""
        self.error: StreamwardError | None = None
        """Why a prompt could not be judged."""
        self._open_guard = open_guard
        self._wire = wire
        self._request = wire.request
        self._policy = policy
        self._release = release
        self._limits = limits
        self._on_judged = on_judged
        self._stack = AsyncExitStack()
        self._num_open = 0

    async def aclose(self) -> None:
        """Close all streams."""
        await self._stack.aclose()

    async def judge_prompts(self) -> Decision:
        """Judge what the request says, and be ready for the answer."""
        decision = ALLOWED
        for index, prompt in enumerate(self._request.prompts):
            judgement, found = await self._judge_prompt(prompt, group=index * self._request.num_choices)
            self.prompts.append((judgement, found))
            decision = combine(decision, found)
            if decision.action.severity >= Action.REPLACE.severity:
                break
        return decision

    async def _judge_prompt(self, prompt: Prompt, *, group: int) -> tuple[Judgement | None, Decision]:
        try:
            stream = await self._enter(prompt.messages)
            judgement, decision = stream.prompt, stream.decision
            if prompt.before_tools:
                judgement, decision = await self._with_earlier(prompt, judgement, decision)
        except Exception as error:  # whatever it is, a prompt that was not judged is not allowed for that
            self.error = as_known(error)
            decision = decide_error(self._policy, Side.PROMPT, self.error)
            if decision.action.severity < Action.REPLACE.severity:
                self.fields.start(group, await self._open_reader(group, messages=()))
            return None, decision
        reader = self._reader(stream, group)
        self.fields.start(group, reader)
        if prompt.prefill and decision.action.severity < Action.REPLACE.severity:
            await self.fields.append(self._wire.content_of(group), prompt.prefill)
            await reader.judge()
            decision = combine(decision, reader.decision)
        return judgement, decision

    async def _with_earlier(
        self, prompt: Prompt, judgement: Judgement | None, decision: Decision
    ) -> tuple[Judgement | None, Decision]:
        """Judge the user's own last turn too, which results of tools came after; the worse of the two counts."""
        async with (
            asyncio.timeout(self._limits.guard_timeout_s),
            self._open_guard(prompt.before_tools, self._policy) as earlier,
        ):
            if earlier.decision.action.severity > decision.action.severity:
                return earlier.prompt, earlier.decision
            return judgement, decision

    async def _open_reader(self, group: int, *, messages: Sequence[Message] | None = None) -> Reader:
        if messages is None:
            messages = self._request.prompt_of(group).messages
        try:
            if self._num_open >= self._limits.max_guard_streams:
                raise OverloadedError("the answer needs more guard streams than max_guard_streams allows")
            return self._reader(await self._enter(messages), group)
        except Exception as error:  # whatever it is, text that nobody judges must not leave
            reader = self._reader(_NoStream(), group)
            reader.fail(error)
            return reader

    async def _enter(self, messages: Sequence[Message]) -> JudgedStream:
        wait_s, waited_s = _FIRST_WAIT_S, 0.0
        while True:
            try:
                async with asyncio.timeout(self._limits.guard_timeout_s):
                    stream = await self._stack.enter_async_context(self._open_guard(messages, self._policy))
                self._num_open += 1
                return stream
            except OverloadedError:
                if waited_s + wait_s > self._limits.overload_wait_s:
                    raise
                await asyncio.sleep(wait_s)
                waited_s, wait_s = waited_s + wait_s, wait_s * 2

    def _reader(self, stream: JudgedStream, group: int) -> Reader:
        place = len(self.fields.readers.get(group, []))
        name = "envelope" if group == ENVELOPE else str(group)
        return Reader(
            stream,
            name=f"{name}.{place}" if place else name,
            policy=self._policy,
            hold_tokens=self._release.hold_tokens,
            overload_wait_s=self._limits.overload_wait_s,
            timeout_s=self._limits.guard_timeout_s,
            on_judged=self._on_judged,
        )


class _NoStream:
    """Stands where no stream could be opened."""

    prompt: Judgement | None = None
    decision = ALLOWED
    checked_chars = 0

    async def feed(self, piece: str) -> list[Event]:
        raise AssertionError("nothing is fed to a reader that has failed")

    feed_reasoning = feed

    async def finish(self) -> Result:
        raise AssertionError("a reader that has failed is not finished")
