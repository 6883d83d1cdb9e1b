"""A model that the caller runs, under a guard that changes its answer in progress."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from streamward.decisions import decide_error
from streamward.errors import StreamwardError
from streamward.intervene.held_text import HeldStream, HeldText
from streamward.intervene.walk import InterventionEpisode, InterventionOutcome, InterventionRecord, LadderWalk
from streamward.intervene.wording import joined_to, language_of, words_of
from streamward.ladder import LadderAction, LadderStep, ReleasePolicy
from streamward.moderation.conversation import MessageLike
from streamward.policy import Policy
from streamward.schema import Action, Message, Side

_INTERVENING = ReleasePolicy(mode="intervene")


@dataclass(frozen=True, slots=True)
class GenerationPrefix:
    """The text that a model is to continue.

    Attributes:
        text: The answer so far.
        self_check: What the model reads behind it, and the reader does not see.
        raise_temperature: How much warmer to sample than usual.
        attempt: 0 for the first call of an answer, then counting up; vary the seed by it.
    """

    text: str = ""
    self_check: str = ""
    raise_temperature: float = 0.0
    attempt: int = 0

    @property
    def whole(self) -> str:
        """All that the model reads of its answer."""
        return joined(self.text, self.self_check)


def joined(text: str, self_check: str) -> str:
    """Return an answer with a self-check behind it, as a paragraph of its own."""
    if not self_check:
        return text
    return f"{text}\n\n{self_check}\n\n" if text else f"{self_check}\n\n"


Generate = Callable[[GenerationPrefix], Iterable[str]]
"""Continues an answer: yields the text of one token after the other, cut anywhere. Ends where the answer ends."""
RewriteText = Callable[[str, str], str]
"""Rewrites a passage, its second argument, by an instruction, its first."""
MaskText = Callable[[str], str]
"""Replaces what detectors find in a passage, and returns the passage as it is where they find nothing."""


class AnswerGuard(Protocol):
    """Interface of a `Moderator` as far as it is used: a policy, and streams under it."""

    @property
    def policy(self) -> Policy:
        """Policy that the guard's verdicts are read by."""
        ...

    def stream(self, prompt: str | None = None, messages: Sequence[MessageLike] | None = None) -> HeldStream:
        """Read a conversation and wait for the response."""
        ...


@dataclass(slots=True)
class GuardedAnswer:
    """The outcome of a guarded answer.

    Attributes:
        text: What the reader got.
        finish_reason: `stop` where the model ended the answer, `content_filter` where the guard did.
        interventions: What was changed, in order.
        num_tokens: Tokens of the guard that were read, dropped ones included.
        num_calls: How often the model was asked to continue.
        error: Code of the error where the guard failed.
    """

    text: str = ""
    finish_reason: Literal["stop", "content_filter"] = "stop"
    interventions: list[InterventionRecord] = field(default_factory=list)
    num_tokens: int = 0
    num_calls: int = 0
    error: str | None = None


class GuardedGeneration:
    """Yields the text of one answer as the guard lets it through. Iterate once; then read `answer`.

    CARE (Qwen3Guard, arXiv 2510.14276, section 4.5) with the ladder of a policy: the last tokens are held, a flag drops
    them from the flagged sentence on, and the model continues from what is left. What was yielded stays.
    """

    def __init__(
        self,
        generate: Generate,
        guard: AnswerGuard,
        *,
        prompt: str | None = None,
        messages: Sequence[MessageLike] | None = None,
        release: ReleasePolicy | None = None,
        rewrite: RewriteText | None = None,
        mask: MaskText | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Generate nothing yet.

        Args:
            generate: The model.
            guard: Judges the answer; a Stream guard.
            prompt: The user's text.
            messages: Instead of it: the conversation up to the user's last turn.
            release: How text leaves, and the ladder; by default that of the guard's policy, or else mode `intervene`
                with its defaults.
            rewrite: Needed by the step `rewrite`, which is passed over without it.
            mask: Likewise for the step `mask`.
            clock: In seconds.
        """
        self.answer = GuardedAnswer()
        """Outcome of the answer; complete once the iteration has ended."""
        self._generate = generate
        self._guard = guard
        self._prompt, self._messages = prompt, messages
        self._release = release or guard.policy.release or _INTERVENING
        self._rewrite, self._mask = rewrite, mask
        self._clock = clock
        self._walk = LadderWalk(self._release.ladder if self._release.mode == "intervene" else ())
        self._episode: InterventionEpisode | None = None
        self._step: LadderStep | None = None  # the last step
        self._waited = 0  # number of tokens read when the last text left

    def __iter__(self) -> Iterator[str]:
        """Yield the answer, piece by piece."""
        with HeldText(self._open, hold_tokens=self._release.num_held) as text:
            try:
                yield from self._run(text)
            except _GuardFailed as failure:
                yield from self._fail(text, failure)
            finally:
                self.answer.num_tokens = text.num_judged

    def _run(self, text: HeldText) -> Iterator[str]:
        prefix = None if text.is_flagged else GenerationPrefix()  # otherwise the prompt is flagged
        while prefix is not None:
            if (yield from self._continue(text, prefix)):
                return
            prefix = self._change(text)
        yield from self._end(text)

    def _open(self) -> HeldStream:
        return self._guard.stream(self._prompt, self._messages)

    def _continue(self, text: HeldText, prefix: GenerationPrefix) -> Generator[str, None, bool]:
        """Let the model go on; return whether the answer is over. It is not where it was flagged."""
        self.answer.num_calls += 1
        pieces = iter(self._generate(prefix))
        must_close = True
        try:
            for piece in pieces:
                with _judging(pieces):
                    text.feed(piece)
                yield from self._send(text, text.release())
                if text.is_flagged:
                    return False
            with _judging(()):
                text.finish()
        except _GuardFailed:
            must_close = False  # the remaining pieces may still be passed on
            raise
        finally:
            if isinstance(pieces, Generator) and must_close:
                pieces.close()
        if text.is_flagged:
            yield from self._send(text, text.release())
            return False
        yield from self._send(text, text.release_all())
        self._close_episode(text, "continued")
        return True

    def _change(self, text: HeldText) -> GenerationPrefix | None:
        """Drop what is flagged and take the next step of the ladder; None if the answer ends."""
        while True:
            self._episode = self._episode or InterventionEpisode(clock=self._clock)
            category = text.decision.category
            with _judging(()):
                dropped = text.cut()
            self._episode.cut(len(text.text), num_tokens=dropped.num_tokens, category=category)
            step = self._step = self._walk.next(self._is_possible)
            if step is None or step.action in (LadderAction.REFUSE, LadderAction.STOP):
                return None
            self._episode.attempt(step.action)
            changed = self._changed(step, dropped.text, text.text)
            if changed is None:
                return self._prefix(step, text.text)
            with _judging(()):
                text.feed(changed)
            if not text.is_flagged:
                return GenerationPrefix(text.text, attempt=self.answer.num_calls)

    def _is_possible(self, step: LadderStep) -> bool:
        match step.action:
            case LadderAction.MASK:
                return self._mask is not None
            case LadderAction.REWRITE:
                return self._rewrite is not None
            case _:
                return True

    def _changed(self, step: LadderStep, dropped: str, kept: str) -> str | None:
        """Return what stands in place of the dropped text; None if the model is to say."""
        if step.action is LadderAction.MASK and self._mask is not None:
            return self._mask(dropped)
        if step.action is LadderAction.REWRITE and self._rewrite is not None:
            return joined_to(kept, self._rewrite(words_of(step, language_of(dropped)), dropped))
        return None

    def _prefix(self, step: LadderStep, kept: str) -> GenerationPrefix:
        is_introspecting = step.action is LadderAction.INTROSPECT
        return GenerationPrefix(
            kept,
            words_of(step, language_of(kept or self._asked)) if is_introspecting else "",
            raise_temperature=step.raise_temperature * self._walk.attempt_of(step),
            attempt=self.answer.num_calls,
        )

    @property
    def _asked(self) -> str:
        """The user's last turn, as far as it is text."""
        if self._prompt is not None or not self._messages:
            return self._prompt or ""
        last = self._messages[-1]
        content = last.content if isinstance(last, Message) else last.get("content")
        return content if isinstance(content, str) else ""

    def _end(self, text: HeldText) -> Iterator[str]:
        """End an answer that is flagged and cannot be changed."""
        self.answer.finish_reason = "content_filter"
        step = self._step
        kept = "" if text.is_flagged else text.release_all()
        if step is not None and step.action is LadderAction.REFUSE:
            said = text.text if kept or text.released else ""
            kept += joined_to(said, words_of(step, language_of(said or self._asked)))
        if self._episode is not None:
            self._episode.attempt(LadderAction.STOP if step is None else step.action)
        yield from self._send(text, kept, is_end=True)
        is_refused = step is not None and step.action is LadderAction.REFUSE
        self._close_episode(text, "refused" if is_refused else "stopped")

    def _fail(self, text: HeldText, failure: "_GuardFailed") -> Iterator[str]:
        """End an answer that could not be judged, or pass it on if the policy lets it; never in an intervention."""
        self.answer.error = failure.error.code
        decision = decide_error(self._guard.policy, Side.RESPONSE, failure.error)
        if decision.action.severity < Action.REPLACE.severity and not self.answer.interventions and not self._episode:
            yield from self._send(text, text.release_unjudged(), is_end=True)
            for piece in failure.pieces:
                yield from self._send(text, piece, is_end=True)
            return
        if isinstance(failure.pieces, Generator):
            failure.pieces.close()
        self.answer.finish_reason = "content_filter"
        self._close_episode(text, "stopped")

    def _send(self, text: HeldText, piece: str, *, is_end: bool = False) -> Iterator[str]:
        if not piece:
            return
        if not is_end:
            self._close_episode(text, "continued")
        self._waited = text.num_judged
        self.answer.text += piece
        yield piece

    def _close_episode(self, text: HeldText, outcome: InterventionOutcome) -> None:
        if self._episode is None:
            return
        self._episode.wait_tokens = text.num_judged - self._waited
        self.answer.interventions.append(self._episode.ended(outcome))
        self._episode = None


class _GuardFailed(Exception):
    """The guard failed while there were pieces of the model to come."""

    def __init__(self, error: StreamwardError, pieces: Iterable[str]) -> None:
        super().__init__(error.code)
        self.error = error
        self.pieces = pieces


@contextmanager
def _judging(pieces: Iterable[str]) -> Iterator[None]:
    """Tell errors of the guard from those of the model."""
    try:
        yield
    except StreamwardError as error:
        raise _GuardFailed(error, pieces) from error
