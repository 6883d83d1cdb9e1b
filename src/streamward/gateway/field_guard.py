"""One guard stream over text of one choice, and how much of it may be shown."""

import asyncio
import logging
import sys
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import groupby

from streamward.decisions import SideState, combine, decide_error
from streamward.errors import ContextLengthError, InputError, OverloadedError, StreamwardError
from streamward.gateway.deadline import GuardDeadline
from streamward.gateway.guard import JudgedStream
from streamward.intervene.places import CodeBlockScanner
from streamward.policy import Policy
from streamward.schema import Action, Decision, Event, Result, Side, SideResult

logger = logging.getLogger(__name__)

SEPARATOR = "\n"
_FIRST_WAIT_S = 0.05
_PIECE_CHARS = 512  # judged in one go: what was judged before a deadline counts
_SHORT_PIECE_CHARS = 64  # likewise where text that is flagged is dropped: what follows it need not be judged


class FieldGuard:
    """Feeds text to a guard stream; knows how many characters from the start the verdicts let through.

    A guard that fails makes the decision of the policy's `on_error`: either nothing more leaves, or, if the policy
    says so, all of it does, unless the guard has stopped it before. What the stream may still do after that does not
    count, and the stream is not asked: it may be busy.
    """

    def __init__(
        self,
        stream: JudgedStream,
        *,
        name: str,
        policy: Policy,
        hold_tokens: int,
        overload_wait_s: float,
        deadline: GuardDeadline,
        on_judged: Callable[[str, str, Sequence[Event]], None],
        reopen: Callable[[], Awaitable[JudgedStream]] | None = None,
        on_truncated: Callable[[str, int, int], None] = lambda name, num_chars, num_tokens: None,
    ) -> None:
        """Take over a stream that has read its context; whoever opened it closes it.

        Args:
            stream: Stream of the guard.
            name: Tells the guard streams of an answer apart.
            policy: Its `on_error` decides where the guard fails.
            hold_tokens: Clear tokens at the end that are kept back.
            overload_wait_s: Patience with a guard that has no room.
            deadline: For the guard to judge what waits.
            on_judged: Is given the name, text that was judged, and what the guard says of it.
            reopen: Opens another stream behind the same context, where text is to be truncated and goes on. None:
                nothing is truncated.
            on_truncated: Is given the name, and how many characters and tokens are left.
        """
        self._on_truncated = on_truncated
        self.name = name
        self.fed = 0
        """Characters handed over, judged or not."""
        self.num_judged_chars = 0
        """Characters that the guard was given and did judge, from the start."""
        self.num_shown_chars = 0
        """Characters up to the last one that was released, from the start."""
        self.num_tokens = 0
        """Judged; a token that was read again counts again."""
        self.num_tokens_when_shown = 0
        """Number of judged tokens when text was released last."""
        self.last_field: object = None
        """Stands for the field whose text is at the end and may go on."""
        self.ends_in_part = False
        """True if what is at the end is part of a text whose next part follows without anything between."""
        self.is_finished = False
        self.result: Result | None = None
        """Result for the whole field; None before the end."""
        self._stream = stream
        self._policy = policy
        self._overload_wait_s = overload_wait_s
        self._deadline = deadline
        self._on_judged = on_judged
        self._reopen = reopen
        self._blocks = CodeBlockScanner()
        self.hold_tokens = hold_tokens
        """Clear tokens at the end that are kept back."""
        self.held_from: int | None = None
        """Character from which on nothing leaves before the end, if there is one: what is of use as a whole only."""
        self.is_changing = False
        """True if somebody else judges it and lets it leave: it is being changed in progress."""
        self._pieces: list[str] = []
        self._queue: list[tuple[bool, str]] = []
        self._mode: bool | None = None  # True if the last piece was reasoning; None before the first
        self._can_reason = True
        self._ends: list[int] = []  # ends of the tokens judged so far, in characters
        self._state = SideState(policy, Side.RESPONSE)  # the state of a text that is never finished
        self._said = stream.decision
        self._clear = 0
        self._failure: Decision | None = None
        self._is_given_up = False
        self.error: str | None = None
        """Code of what kept the guard from judging it."""

    @property
    def text(self) -> str:
        """All that was handed over."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def clear(self) -> int:
        """Characters from the start that were judged and are not over the policy's threshold."""
        return min(self._clear, self.fed)

    @property
    def num_live_tokens(self) -> int:
        """Tokens judged and not dropped."""
        return self._state.num_verdicts

    @property
    def has_failed(self) -> bool:
        """True if the guard could not judge it."""
        return self._is_given_up

    def num_tokens_in(self, start: int, end: int) -> int:
        """Return how many judged tokens end within characters; 0 where no tokens are held."""
        return bisect_right(self._ends, end) - bisect_right(self._ends, start)

    @property
    def decision(self) -> Decision:
        """Decision on everything judged so far. A guard that fails does not withdraw an earlier decision."""
        return self._said if self._failure is None else combine(self._failure, self._said)

    @property
    def judgement(self) -> SideResult | None:
        """Result for the text judged so far; None if there is none."""
        return self._state.side_result(thresholds={}) if self.result is None else self.result.response

    @property
    def is_stopped(self) -> bool:
        """True if nothing more may leave."""
        return self.decision.action.severity >= Action.REPLACE.severity

    @property
    def limit(self) -> int:
        """Characters from the start that may be shown."""
        if self._failure is not None and not self.is_stopped:
            return sys.maxsize
        if self.is_finished and not self.is_stopped:
            return self._clear
        if not self.hold_tokens:
            return min(self._clear, self.whole_limit)
        num_shown = bisect_right(self._ends, self._clear) - self.hold_tokens
        return min(self._ends[num_shown - 1] if num_shown > 0 else 0, self.whole_limit)

    @property
    def whole_limit(self) -> int:
        """Characters from the start up to what is held whole: a code block that is open, or `held_from`."""
        if self._reopen is None or (self.is_finished and not self.is_stopped):
            return sys.maxsize
        block = self._blocks.start(self.text)
        return min(sys.maxsize if block is None else block, sys.maxsize if self.held_from is None else self.held_from)

    def add(self, text: str, *, is_reasoning: bool) -> int:
        """Queue text and return where it starts."""
        is_reasoning = is_reasoning and self._can_reason and self._mode is not False
        start = self.fed
        self._mode = is_reasoning
        self._queue.append((is_reasoning, text))
        self._pieces.append(text)
        self.fed += len(text)
        return start

    def note_shown(self, end: int) -> None:
        """Remember that what stands before this character was released."""
        if end > self.num_shown_chars:
            self.num_shown_chars, self.num_tokens_when_shown = end, self.num_tokens

    @property
    def is_waiting(self) -> bool:
        """True if there is text to judge, and nobody else sees to it."""
        return bool(self._queue) and not self.is_changing

    @property
    def is_open(self) -> bool:
        """True if the end is still to be judged, and nobody else sees to it."""
        return not self.is_finished and not self._is_given_up and not self.is_changing

    def separate(self, *, is_reasoning: bool = False) -> None:
        """Queue what keeps two fields apart: nothing between reasoning and answer, which the template does."""
        self.last_field = None
        if self._mode is None or (self._mode and not is_reasoning and self._can_reason):
            return
        self.add(SEPARATOR, is_reasoning=self._mode)

    def fail(self, error: Exception) -> None:
        """Judge nothing more: the policy's `on_error` decides about all that was not judged.

        A text that the guard has stopped stays stopped for the reason it gave.
        """
        known = as_known(error)
        logger.error("the guard could not judge a response", extra={"code": known.code, "kind": type(error).__name__})
        if not self.is_stopped:
            self._failure = decide_error(self._policy, Side.RESPONSE, known)
        self._is_given_up, self.error = True, known.code

    async def judge(self) -> None:
        """Judge what is queued, piece by piece, until it is judged or the deadline has come."""
        queue, self._queue = self._queue, []
        if self._is_given_up:
            return
        try:
            async with self._deadline.timeout():
                for is_reasoning, text in _pieces(queue, _PIECE_CHARS if self._reopen is None else _SHORT_PIECE_CHARS):
                    if self.is_stopped:
                        return
                    self._note(text, await self._feed(text, is_reasoning=is_reasoning))
        except Exception as error:  # after any error: text that was not judged must not leave
            self.fail(error)

    async def finish(self) -> None:
        """Judge the end: what is still open is decided."""
        await self.judge()
        if self.is_finished or self._is_given_up:
            return
        try:
            async with self._deadline.timeout():
                self.result = await self._stream.finish()
        except Exception as error:  # after any error: text that was not judged must not leave
            self.fail(error)
            return
        self.is_finished = True
        self._said, self._clear = self._stream.decision, self._stream.releasable_chars

    async def truncate(self, num_chars: int) -> None:
        """Drop all but the first characters, and what was decided by the others; the text may go on, to another end.

        Where the stream has ended, another one reads what is left.
        """
        assert self._reopen is not None, "only text that may be changed is truncated"
        text = self.text[:num_chars]
        self._queue, self._pieces, self.fed = [], [text], num_chars
        self._blocks, self._mode = CodeBlockScanner(), False
        if self._is_given_up:
            return
        try:
            async with self._deadline.timeout():
                if self.is_finished:
                    self._stream, self._state = await self._reopen(), SideState(self._policy, Side.RESPONSE)
                    self.is_finished, self.result, self._can_reason = False, None, False
                    self._ends.clear()
                    events = await self._stream.feed(text)
                else:
                    events = await self._stream.truncate(num_chars)
                    del self._ends[bisect_right(self._ends, num_chars) :]
                    self._state.truncate(min(len(self._ends), self._state.num_verdicts))
            first = events[0].verdict.position if events else len(self._ends)
            self._on_truncated(self.name, num_chars, first)
            self._observe(events)
            self.num_judged_chars = num_chars
        except Exception as error:  # after any error: text that was not judged must not leave
            self.fail(error)

    async def _feed(self, text: str, *, is_reasoning: bool) -> list[Event]:
        wait_s, waited_s = _FIRST_WAIT_S, 0.0
        while True:
            try:
                return await self._feed_once(text, is_reasoning=is_reasoning)
            except OverloadedError:  # the guard has taken in the text
                if waited_s + wait_s > self._overload_wait_s:
                    raise
                await asyncio.sleep(wait_s)
                text, waited_s, wait_s = "", waited_s + wait_s, wait_s * 2

    async def _feed_once(self, text: str, *, is_reasoning: bool) -> list[Event]:
        if is_reasoning and self._can_reason:
            try:
                return await self._stream.feed_reasoning(text)
            except ContextLengthError:
                raise
            except InputError:  # the guard's template has no place for reasoning; nothing was taken in
                self._can_reason = False
        return await self._stream.feed(text)

    def _note(self, text: str, events: Sequence[Event]) -> None:
        self.num_judged_chars += len(text)
        self._observe(events)
        self._on_judged(self.name, text, events)

    def _observe(self, events: Sequence[Event]) -> None:
        self.num_tokens += len(events)
        for event in events:
            position, span = event.verdict.position, event.verdict.span
            self._state.rollback(min(position, self._state.num_verdicts))
            self._state.observe(event.verdict)
            if self.hold_tokens or self._reopen is not None:
                del self._ends[position:]
                self._ends.append(0 if span is None else span.end)
        self._said, self._clear = self._stream.decision, self._stream.releasable_chars


def _pieces(queue: Sequence[tuple[bool, str]], size: int) -> Iterator[tuple[bool, str]]:
    """Join what is of one kind, and cut it into pieces of a size, between words where there are any."""
    for is_reasoning, group in groupby(queue, key=lambda item: item[0]):
        text, start = "".join(text for _, text in group), 0
        while len(text) - start > size:
            end = text.rfind(" ", start + size // 2, start + size)
            end = start + size if end < 0 else end
            yield is_reasoning, text[start:end]
            start = end
        yield is_reasoning, text[start:]


def as_known(error: Exception) -> StreamwardError:
    """Return an error of a guard as one of ours, without what it says if it is none."""
    if isinstance(error, StreamwardError):
        return error
    if isinstance(error, TimeoutError):
        return OverloadedError("the guard took too long (gateway.guard_timeout_s)")
    return StreamwardError("the guard failed")
