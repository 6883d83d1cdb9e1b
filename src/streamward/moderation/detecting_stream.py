"""A response that a policy's detectors read while the guard judges it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from streamward.decisions import ALLOWED, combine
from streamward.detectors.detectors import Detectors
from streamward.detectors.finding import DetectorFinding
from streamward.errors import CallCancelledError, InputError, OverloadedError
from streamward.guard_call import current_call
from streamward.moderation.conversation import Conversation
from streamward.moderation.coroutines import GuardCoroutine
from streamward.moderation.detection import decide_prompt_findings, response_detectors
from streamward.moderation.guard_stream import Piece
from streamward.moderation.response_stream import ResponseStream
from streamward.moderation.text_mask import TextMask
from streamward.moderation.wrapping_stream import WrappingStream
from streamward.policy import Policy
from streamward.schema import Decision, Event, Result


def with_detectors(
    stream: ResponseStream, policy: Policy, conversation: Conversation, *, detectors: Detectors | None = None
) -> ResponseStream:
    """Let detectors read a response too, and those of a policy its prompt; returns the stream itself if there are none.

    Args:
        stream: Opened behind the conversation; nothing was fed yet.
        policy: Has the detectors.
        conversation: Up to the user's last turn.
        detectors: Read the response instead of those of the policy; nothing reads the prompt then.
    """
    prompt = ALLOWED
    if detectors is None:
        if not policy.detectors:
            return stream
        detectors = response_detectors(policy)
        prompt = decide_prompt_findings(policy, conversation)
    return DetectingStream(stream, detectors, prompt=prompt) if detectors or prompt is not ALLOWED else stream


class DetectingStream(WrappingStream):
    """A `ResponseStream` with findings. Text waits until both the guard and the detectors have decided about it.

    The guard judges the text as it is; `masked` says what of it may be shown.
    """

    def __init__(self, inner: ResponseStream, detectors: Detectors, *, prompt: Decision = ALLOWED) -> None:
        """Take over a stream.

        Args:
            inner: Judges the response; closed with this one.
            detectors: Read it.
            prompt: What follows from what was found in the prompt.
        """
        super().__init__(inner)
        self._detectors = detectors
        self._prompt_decision = prompt
        self._mask = TextMask(detectors)
        self._text = ""
        self._reasoning_end: int | None = None  # where the answer begins, if reasoning came before it
        self._is_reasoning = False
        self._found = ALLOWED  # decision of the detectors, as of the last call that ended
        self._limit = 0
        inner.listen(self._take)

    @property
    def decision(self) -> Decision:
        """Decision of the guard and the detectors so far."""
        return combine(combine(self._prompt_decision, self._inner.decision), self._found)

    @property
    def releasable_chars(self) -> int:
        """Characters from the start that the guard has let through and the detectors have decided about."""
        return min(self._inner.releasable_chars, self._limit)

    @property
    def findings(self) -> Sequence[DetectorFinding]:
        """Findings in the order in which they were decided; places count in the response."""
        return self._mask.findings

    def masked(self, start: int, end: int) -> str | None:
        """Return characters as they may be shown: masks stand where what they replace begins.

        Args:
            start: The first character.
            end: At most `releasable_chars`.
        """
        return self._mask.masked(self._text[start:end], start)

    async def feed_coroutine(self, piece: Piece) -> list[Event]:
        """Do what `feed` does, as a `GuardCoroutine`."""
        if self._is_reasoning:
            self._end_reasoning()
        return await self._judge(partial(self._inner.feed_coroutine, piece))

    async def feed_reasoning_coroutine(self, piece: Piece) -> list[Event]:
        """Do what `feed_reasoning` does, as a `GuardCoroutine`."""
        events = await self._judge(partial(self._inner.feed_reasoning_coroutine, piece))
        self._is_reasoning = True
        return events

    async def truncate_coroutine(self, num_chars: int) -> list[Event]:
        """Do what `truncate` does, as a `GuardCoroutine`."""
        call = current_call()

        async def judge() -> list[Event]:
            try:
                events = await self._inner.truncate_coroutine(num_chars)
            except (OverloadedError, CallCancelledError):
                if call.has_begun:  # the text was dropped
                    self._read_again(num_chars)
                raise
            self._read_again(num_chars)
            return events

        before, self._found = self._found, ALLOWED
        try:
            return await self._judge(judge)
        except InputError:
            self._found = before  # nothing was dropped
            raise

    async def finish_coroutine(self) -> Result:
        """Do what `finish` does, as a `GuardCoroutine`."""
        result = await self._inner.finish_coroutine()
        self._mask.finish()
        self._note()
        return self._with_findings(result)

    def so_far(self) -> Result:
        """Return the result of what was judged, as if the response ended there."""
        return self._with_findings(self._inner.so_far())

    def _take(self, text: str) -> None:
        """Read characters that the guard is about to judge."""
        self._text += text
        self._mask.feed(text)

    async def _judge(self, judge: Callable[[], GuardCoroutine[list[Event]]]) -> list[Event]:
        before = combine(self._prompt_decision, self._found)
        try:
            events = await judge()
        finally:
            self._note()
        found = [replace(event, decision=combine(before, event.decision)) for event in events]
        if found:
            found[-1] = replace(found[-1], decision=combine(found[-1].decision, self._found))
        return found

    def _note(self) -> None:
        self._found = combine(self._found, self._mask.decision)
        self._limit = self._mask.limit

    def _end_reasoning(self) -> None:
        self._is_reasoning = False
        self._reasoning_end = len(self._text)
        self._mask.finish()

    def _read_again(self, num_chars: int) -> None:
        text, self._text = self._text[:num_chars], ""
        self._mask = TextMask(self._detectors)
        if self._reasoning_end is not None:
            self._take(text[: self._reasoning_end])
            self._mask.finish()
            text = text[self._reasoning_end :]
        self._take(text)

    def _with_findings(self, result: Result) -> Result:
        return replace(result, decision=combine(combine(self._prompt_decision, result.decision), self._found))
