"""Calls of an LLM that LiteLLM asks about again and again while the answer grows."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from streamward.decisions import ALLOWED, token_action
from streamward.detectors.detectors import Detectors
from streamward.detectors.vault import Vault
from streamward.errors import InputError, OverloadedError
from streamward.moderation.async_stream import AsyncGuardStream
from streamward.moderation.moderator import Moderator
from streamward.moderation.text_mask import TextMask
from streamward.policy import Policy
from streamward.schema import Action, Decision, Event, Message, Result, Role, Side, Verdict
from streamward.server.records import ModerationContext, Texts

_NONE = Detectors()


@dataclass(frozen=True, slots=True)
class TextDecision:
    """Decision on one text of an answer.

    Attributes:
        decision: What to do.
        held_chars: Characters at the end that should not be shown yet.
        result: For the log, where there is something new to log.
        events: Newly judged tokens, for whoever watches.
        masked: The text as it would be shown if nothing followed; None where no detector reads it.
        held_masked_chars: Characters at the end of that text that should not be shown yet.
    """

    decision: Decision
    held_chars: int = 0
    result: Result | None = None
    events: tuple[Event, ...] = ()
    masked: str | None = None
    held_masked_chars: int = 0


class IncrementalText:
    """One text of an answer: a choice's content, or the arguments of a tool call.

    The first time it is seen it is judged as a whole text, for it may be one. If it comes again and has grown, it is
    judged as a stream: what is new is read behind what was.
    """

    def __init__(self, messages: Sequence[Message], detectors: Detectors = _NONE) -> None:
        """Begin a text.

        Args:
            messages: The conversation that it answers; may be empty.
            detectors: Read it.
        """
        self.text = ""
        self._detectors = detectors
        self._mask = TextMask(detectors)
        self.messages = tuple(messages)
        self._opinion = TextDecision(ALLOWED)
        self._stream: AsyncGuardStream | None = None
        self._stack = AsyncExitStack()
        self._is_whole_only = False
        self._num_fed = 0

    async def judge(self, text: str, moderator: Moderator) -> TextDecision:
        """Judge a text from which more may be seen later. What was blocked stays blocked.

        Raises:
            ContextLengthError: It is too long.
            OverloadedError: There is no room at present. As with others, the next call begins anew.
        """
        if text == self.text or self._opinion.decision.action.severity >= Action.REPLACE.severity:
            return replace(self._opinion, result=None, events=())
        has_grown = bool(self.text) and text.startswith(self.text)
        if not has_grown:
            await self.close()
        try:
            opinion = await (self._extend(text, moderator) if has_grown else self._whole(text, moderator))
        except BaseException:  # also on cancellation: the stream may have taken in text that it has not judged
            await self.close()
            self.text = ""
            raise
        self._opinion = self._masked(opinion, text, has_grown=has_grown) if self._detectors else opinion
        self.text = text
        return self._opinion

    def _masked(self, opinion: TextDecision, text: str, *, has_grown: bool) -> TextDecision:
        """Let the detectors read what is new; returns an opinion with the masked text."""
        if not has_grown:
            self._mask = TextMask(self._detectors)
        self._mask.feed(text[len(self.text) :] if has_grown else text)
        clear = min(len(text) - opinion.held_chars, self._mask.limit)
        masked = self._mask.if_ended(text)
        return replace(
            opinion,
            held_chars=len(text) - clear,
            masked=masked,
            held_masked_chars=len(masked) - len(self._mask.masked(text[:clear], 0)),
        )

    async def finish(self) -> Result | None:
        """Close it; the result if it was a stream whose end was not logged."""
        stream = self._stream
        try:
            return None if stream is None or self._opinion.result is not None else await stream.finish()
        finally:
            await self.close()

    async def close(self) -> None:
        """Free the stream."""
        self._stream, self._num_fed = None, 0
        await self._stack.aclose()

    async def _whole(self, text: str, moderator: Moderator) -> TextDecision:
        result = await moderator.amoderate(messages=[*self.messages, Message(Role.ASSISTANT, text)])
        verdicts = () if result.response is None else result.response.verdicts
        held = _held_chars(verdicts, moderator.policy, num_chars=len(text))
        return TextDecision(
            result.decision, held, result, tuple(Event(verdict, result.decision) for verdict in verdicts)
        )

    async def _extend(self, text: str, moderator: Moderator) -> TextDecision:
        stream = self._stream or await self._open(moderator)
        if stream is None:
            return await self._whole(text, moderator)
        events = tuple(await stream.feed(text[self._num_fed :]))
        self._num_fed = len(text)
        if stream.decision.action.severity >= Action.REPLACE.severity:
            result = await stream.finish()
            await self.close()
            return TextDecision(result.decision, 0, result, events)
        return TextDecision(stream.decision, len(text) - stream.releasable_chars, events=events)

    async def _open(self, moderator: Moderator) -> AsyncGuardStream | None:
        """Open a stream; None if the guard judges whole texts only."""
        if self._is_whole_only:
            return None
        try:
            self._stream = await self._stack.enter_async_context(
                moderator.with_detectors(self._detectors).astream(messages=self.messages or None)
            )
        except InputError:  # the conversation was accepted before, so the guard is of a kind without streams
            self._is_whole_only = True
        return self._stream


def _held_chars(verdicts: Sequence[Verdict], policy: Policy, *, num_chars: int) -> int:
    """Return how many characters lie behind the last token that is not over the threshold, if any is over it."""
    end = num_chars
    for verdict in reversed(verdicts):
        if token_action(policy, Side.RESPONSE, verdict).severity < Action.REPLACE.severity:
            break
        end = end if verdict.span is None else verdict.span.start
    return num_chars - end


@dataclass(slots=True)
class LiteLLMCall:
    """One call of an LLM.

    Attributes:
        messages: The conversation; empty if its prompt was not seen.
        texts: The texts of its answer, by place.
        lock: Held while it is worked on.
        seen_at: When it was last asked about.
        job: For the log: as who asked last.
        vault: What was masked reversibly in its prompt.
    """

    messages: tuple[Message, ...] = ()
    texts: dict[str, IncrementalText] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    seen_at: float = 0.0
    job: ModerationContext | None = None
    vault: Vault = field(default_factory=Vault)

    def text(self, place: str, detectors: Detectors) -> IncrementalText:
        """Return the text at a place of the answer, which these detectors read from its beginning on."""
        if place not in self.texts:
            self.texts[place] = IncrementalText(self.messages, detectors.restoring(self.vault))
        return self.texts[place]

    def spoken(self, text: str) -> Texts:
        """Return prompt and answer, for the log."""
        return Texts(self.messages[-1].content if self.messages else None, text)


class Calls:
    """The calls of the last minutes, by tenant and id. Used from the event loop only."""

    def __init__(self, *, max_open: int, idle_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start empty."""
        self._max_open = max_open
        self._idle_s = idle_s
        self._clock = clock
        self._calls: OrderedDict[tuple[str, str], LiteLLMCall] = OrderedDict()
        self._let_go: list[LiteLLMCall] = []

    def __len__(self) -> int:
        """Number of calls that are kept."""
        return len(self._calls)

    def get(self, tenant: str, call_id: str) -> LiteLLMCall:
        """Return a call, begun if it was not seen before. Where there is no room the one idle for longest goes.

        Raises:
            OverloadedError: All of them are being worked on.
        """
        key = (tenant, call_id)
        if key not in self._calls and len(self._calls) >= self._max_open:
            self._evict_one()
        call = self._calls.setdefault(key, LiteLLMCall())
        call.seen_at = self._clock()
        self._calls.move_to_end(key)
        return call

    def take_idle(self, *, every: bool = False) -> list[LiteLLMCall]:
        """Remove and return the calls that nobody asked about for long; or all."""
        found, self._let_go = self._let_go, []
        for key, call in list(self._calls.items()):
            is_idle = not call.lock.locked() and self._clock() - call.seen_at >= self._idle_s
            if every or is_idle:
                found.append(self._calls.pop(key))
        return found

    def _evict_one(self) -> None:
        for key, call in self._calls.items():
            if not call.lock.locked():
                self._let_go.append(self._calls.pop(key))
                return
        raise OverloadedError(f"{self._max_open} calls are being judged; try again later")
