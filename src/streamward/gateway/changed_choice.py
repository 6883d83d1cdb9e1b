"""One choice of an answer that is changed in progress: from its first flag to its end."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from streamward.decisions import combine
from streamward.errors import InputError, UpstreamError
from streamward.gateway.continuation_calls import ContinuationCalls
from streamward.gateway.deadline import GuardDeadline
from streamward.gateway.field_guard import FieldGuard
from streamward.intervene.generation import GenerationPrefix, MaskText
from streamward.intervene.places import cut_place
from streamward.intervene.walk import InterventionEpisode, InterventionOutcome, InterventionRecord, LadderWalk
from streamward.intervene.wording import joined_to, language_of, words_of
from streamward.ladder import LadderAction, LadderStep
from streamward.moderation.text_mask import TextMask
from streamward.schema import Action, Decision, Side

_ENDS = (LadderAction.REFUSE, LadderAction.STOP)


@dataclass(slots=True)
class ChoiceText:
    """The text of a choice when it is flagged for the first time.

    Attributes:
        text: All of it.
        start: Where it begins in the text of its field guard.
        released: Characters that the client has.
        asked: The user's last text.
        is_whole: Whether nothing of it leaves before its end: it is of use as a whole only.
    """

    text: str
    start: int
    released: int
    asked: str
    is_whole: bool = False


class ChangedChoice:
    """Goes down a ladder, has the upstream continue what is kept, and lets text leave as the guard lets it through."""

    def __init__(
        self,
        group: int,
        choice: ChoiceText,
        guard: FieldGuard,
        *,
        walk: LadderWalk,
        calls: ContinuationCalls,
        deadline: GuardDeadline,
        mask: MaskText | None,
        open_detectors: Callable[[], TextMask | None],
        clock: Callable[[], float],
    ) -> None:
        """Take over a choice that is flagged.

        Args:
            group: The choice.
            choice: What it says.
            guard: Judges it; nobody else uses it from now on.
            walk: Down the policy's ladder.
            calls: Ask the upstream.
            deadline: For the guard to judge what came.
            mask: For the step `mask`, which is passed over without it.
            open_detectors: Opens the policy's detectors for a text that begins; None if there are none.
            clock: In seconds.
        """
        self.group = group
        self.finish_reason = "content_filter"
        """Reason for which it ended."""
        self.records: list[InterventionRecord] = []
        """Changes made so far."""
        self.decision: Decision | None = None
        """Decision on the text that ended the choice; None if it went on."""
        self.dropped: list[str] = []
        """Text that was dropped, in order."""
        self.shown = choice.text[: choice.released]
        """Text that the client has received, once the iteration has ended."""
        self.num_calls = 0
        """Number of times that the upstream was asked to continue."""
        self._choice = choice
        self._guard = guard
        self._walk = walk
        self._calls = calls
        self._deadline = deadline
        self._mask = mask
        self._open_detectors = open_detectors
        self._detectors = self._read_again()
        self._clock = clock
        self._episode: InterventionEpisode | None = None
        self._kept = 0  # number of characters before the last cut
        self._tokens_before = guard.num_tokens_in(0, choice.start)
        self._step: LadderStep | None = None
        self._flag = self._decision
        self._was_passed_over = False  # True if a step was skipped because the upstream cannot do it
        guard.is_changing = True

    @property
    def text(self) -> str:
        """All that it says, released or not."""
        return self._choice.text

    @property
    def _is_flagged(self) -> bool:
        """True if the guard or a detector stops it."""
        return self._guard.is_stopped or (self._detectors is not None and self._detectors.is_blocked)

    @property
    def _decision(self) -> Decision:
        detected = None if self._detectors is None else self._detectors.decision
        return combine(self._guard.decision, detected)

    def _read_again(self) -> TextMask | None:
        """Return detectors that have read the text as it is now."""
        detectors = self._open_detectors()
        if detectors is not None:
            detectors.feed(self._choice.text)
        return detectors

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield text as it may leave, to the end of the choice. What was begun ends with the iteration."""
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                self.shown += piece
                yield piece

    async def _pieces(self) -> AsyncGenerator[str, None]:
        prefix = await self._change()
        while prefix is not None:
            is_over = False
            async with aclosing(self._continue(prefix)) as continued:
                async for piece in continued:
                    if piece is None:
                        is_over = True
                    elif piece:
                        yield piece
            if is_over:
                return
            prefix = None if self._guard.has_failed else await self._change()
        if last := self._end():
            yield last

    async def _continue(self, prefix: GenerationPrefix) -> AsyncGenerator[str | None, None]:
        """Let the upstream go on; yields None at the end of the choice, which is not reached where it was flagged."""
        self.num_calls += 1
        num_read = self._guard.num_tokens
        try:
            reader = self._calls.begin(self.group, prefix, num_spent=self._guard.num_live_tokens - self._tokens_before)
        except InputError:  # the upstream's template refuses the conversation: the attempt failed
            return
        try:
            while (text := await self._calls.within(reader.next())) is not None:
                await self._feed(text)
                if self._guard.has_failed:
                    return
                yield self._release()
                if self._is_flagged:
                    return
        except UpstreamError:  # the attempt failed
            return
        finally:
            await reader.aclose()
            self._calls.usage.add(reader.usage, num_read=self._guard.num_tokens - num_read)
        self._deadline.begin()
        await self._guard.finish()
        if self._detectors is not None:
            self._detectors.finish()
        if self._is_flagged and not self._guard.has_failed:
            yield self._release()
        if self._is_flagged or self._guard.has_failed:
            return
        self.finish_reason = reader.finish_reason or "stop"
        yield self._release_all()
        self._close_episode("continued")
        yield None

    async def _feed(self, text: str) -> None:
        if text:
            self._choice.text += text
            self._guard.add(text, is_reasoning=False)
            if self._detectors is not None:
                self._detectors.feed(text)
            self._deadline.begin()
            await self._guard.judge()

    async def _change(self) -> GenerationPrefix | None:
        """Drop what is flagged and take the next step of the ladder; None if the choice ends."""
        while True:
            self._episode = self._episode or InterventionEpisode(clock=self._clock)
            if self._is_flagged:
                self._flag = self._decision
            self._step = step = self._walk.next(self._is_possible)
            dropped = await self._cut(step)
            if self._guard.has_failed or self._is_flagged or step is None or step.action in _ENDS:
                return None
            self._episode.attempt(step.action)
            try:
                said = await self._said_instead(step, dropped)
            except UpstreamError:
                continue
            if said is None:
                return self._prefix(step)
            await self._feed(said)
            if self._guard.has_failed:
                return None
            if not self._is_flagged:
                if self._calls.can_continue:
                    return GenerationPrefix(self.text, attempt=self.num_calls)
                self._was_passed_over = True
                self._step = None
                return None

    def _is_possible(self, step: LadderStep) -> bool:
        may_go_on = self._calls.can_continue or (not self._choice.released and self._calls.can_begin_anew)
        match step.action:
            case LadderAction.MASK:
                return self._mask is not None and self._is_flagged
            case LadderAction.REWRITE:
                return self._is_flagged and not self._choice.is_whole and self._calls.can_rewrite(step)
            case LadderAction.INTROSPECT if self._choice.is_whole:
                return False
            case LadderAction.REGENERATE | LadderAction.INTROSPECT:
                self._was_passed_over |= not may_go_on
                return may_go_on
            case LadderAction.REFUSE:
                return not self._choice.is_whole
            case LadderAction.STOP:
                return True

    async def _cut(self, step: LadderStep | None) -> str:
        """Drop text from the flagged sentence on, or all that has not left where the upstream begins anew."""
        assert self._episode is not None, "a change is an episode"
        choice, guard = self._choice, self._guard
        text, num_tokens = choice.text, guard.num_live_tokens
        floor = max(choice.released, self._kept)
        clear = min(guard.clear - choice.start, len(text))
        if self._detectors is not None and self._detectors.is_blocked:
            clear = min(clear, self._detectors.limit)
        clear = max(floor, clear)
        place = cut_place(text, clear, floor=floor) if self._is_flagged else clear
        begins_anew = step is not None and step.action in (LadderAction.REGENERATE, LadderAction.INTROSPECT)
        if choice.is_whole or (begins_anew and not self._calls.can_continue):
            place = choice.released
        self._deadline.begin()
        await guard.truncate(choice.start + place)
        if guard.is_stopped and not guard.has_failed:
            place = choice.released
            self._deadline.begin()
            await guard.truncate(choice.start + place)
        choice.text, self._kept = text[:place], place
        self._detectors = self._read_again()
        if text[place:]:
            self.dropped.append(text[place:])
        num_dropped = max(0, num_tokens - guard.num_live_tokens)
        self._episode.cut(place, num_tokens=num_dropped, category=self._flag.category)
        return text[place:]

    async def _said_instead(self, step: LadderStep, dropped: str) -> str | None:
        """Return what stands in place of the dropped text; None if the upstream is to say."""
        if step.action is LadderAction.MASK and self._mask is not None:
            return self._mask(dropped)
        if step.action is LadderAction.REWRITE:
            rewritten = await self._calls.rewrite(step, words_of(step, language_of(dropped)), dropped.strip())
            return joined_to(self.text, rewritten)
        return None

    def _prefix(self, step: LadderStep) -> GenerationPrefix:
        is_introspecting = step.action is LadderAction.INTROSPECT
        return GenerationPrefix(
            self.text,
            words_of(step, self._language()) if is_introspecting else "",
            raise_temperature=step.raise_temperature * self._walk.attempt_of(step),
            attempt=self.num_calls + 1,
        )

    def _language(self) -> str:
        return language_of(self.text or self._choice.asked)

    def _release(self) -> str:
        """Return the text that may leave now."""
        if self._choice.is_whole:
            return ""
        limit = min(self._guard.limit - self._choice.start, len(self.text))
        return self._take(limit if self._detectors is None else min(limit, self._detectors.limit))

    def _release_all(self) -> str:
        return self._take(len(self.text))

    def _take(self, limit: int) -> str:
        choice = self._choice
        limit = max(choice.released, limit)
        piece = self.text[choice.released : limit]
        if piece:
            self._close_episode("continued")
            start, choice.released = choice.released, limit
            self._guard.note_shown(choice.start + limit)
            return self._masked(piece, start)
        return piece

    def _masked(self, piece: str, start: int) -> str:
        """Return text as it may leave, with what the detectors put in it."""
        return piece if self._detectors is None else self._detectors.masked(piece, start)

    def _end(self) -> str:
        """Return the last words of a choice that cannot go on."""
        self.decision = self._flag
        if self._guard.has_failed:  # whatever on_error says
            self.decision = Decision(Action.BLOCK, Side.RESPONSE, risk_level=None, error=self._guard.error)
        step = self._step
        is_refused = step is not None and step.action is LadderAction.REFUSE
        kept = "" if self._guard.has_failed or self._is_flagged or self._choice.is_whole else self._rest()
        if self._guard.has_failed or self._choice.is_whole:
            is_refused = False
        elif is_refused or self._was_passed_over:
            is_refused = True
            kept += joined_to(self.text[: self._choice.released], self._closing(step))
        if self._episode is not None:
            self._episode.attempt(LadderAction.REFUSE if is_refused else LadderAction.STOP)
        self._close_episode("refused" if is_refused else "stopped")
        self._guard.note_shown(self._choice.start + self._choice.released)
        return kept

    def _rest(self) -> str:
        if self._detectors is not None:
            self._detectors.finish()
        start, self._choice.released = self._choice.released, len(self.text)
        return self._masked(self.text[start:], start)

    def _closing(self, step: LadderStep | None) -> str:
        if step is None or step.action is not LadderAction.REFUSE:
            step = LadderStep(action=LadderAction.REFUSE)
        if not step.texts and self._flag.message is not None:
            return self._flag.message
        return words_of(step, self._language())

    def _close_episode(self, outcome: InterventionOutcome) -> None:
        if self._episode is None:
            return
        self._episode.wait_tokens = self._guard.num_tokens - self._guard.num_tokens_when_shown
        self.records.append(self._episode.ended(outcome))
        self._episode = None


def is_final(decision: Decision) -> bool:
    """Return whether a decision ends a choice."""
    return decision.action.severity >= Action.REPLACE.severity
