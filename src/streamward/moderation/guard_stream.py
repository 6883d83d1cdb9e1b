"""One response being judged while it is generated."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum, auto
from types import MappingProxyType

from streamward.closing import ClosedOnExit
from streamward.decisions import ALLOWED, SideState, combine
from streamward.detectors.finding import DetectorFinding
from streamward.errors import ContextLengthError, InputError
from streamward.guard_call import current_call
from streamward.moderation.coroutines import run_blocking
from streamward.moderation.releasable import is_stopped, releasable_end, with_prompt
from streamward.moderation.response_judge import ResponseJudge
from streamward.moderation.stream_calls import StreamCalls
from streamward.policy import Policy
from streamward.schema import Decision, Event, Result, RiskLevel, Side, SideResult, Verdict
from streamward.text_stream import Edit, TextStream
from streamward.tokenizer import ReasoningFrame

Piece = str | bytes | Sequence[int]
_QUICK_CHARS = 256  # length of a piece whose tokens and verdicts take a millisecond


@dataclass(frozen=True, slots=True)
class ReasoningTokens:
    """The tokens by which a template marks reasoning in the turn that is judged.

    Attributes:
        frame: What it writes around reasoning; None if it has no place for any.
        num_without: Tokens at the end of the context that say there is none.
    """

    frame: ReasoningFrame | None
    num_without: int


class _Phase(Enum):
    """Phases of a stream, by the text it was fed."""

    NOTHING = auto()
    REASONING = auto()
    ANSWER = auto()


class GuardStream(ClosedOnExit):
    """Takes a response piece by piece and says after each what to do about it. From `Moderator.stream`.

    May be fed from several threads, one piece at a time. Close it, or use it in a `with` block: it holds cache. What
    it says of itself (`decision`, `releasable_chars`, `so_far`) is as of the last call that ended, and waits for none.
    """

    def __init__(
        self,
        text: TextStream,
        judge: ResponseJudge,
        *,
        policy: Policy,
        prompt: SideResult | None,
        prompt_decision: Decision | None,
        reasoning: ReasoningTokens,
        max_chars: int,
        on_close: Callable[[], None],
        thresholds: Mapping[RiskLevel, float] = MappingProxyType({}),
    ) -> None:
        """Made by the moderator, which has read the prompt already."""
        self.prompt = prompt
        """Judgement of the user's turn; None if there was none."""
        self._text = text
        self._judge = judge
        self._policy = policy
        self._state = SideState(policy, Side.RESPONSE)
        self._prompt_decision = prompt_decision
        self._reasoning = reasoning
        self._thresholds = thresholds
        self._max_chars = max_chars
        self._phase = _Phase.NOTHING
        self._answer_start = 0  # character at which the answer begins, behind the reasoning
        self._on_close = on_close
        self._verdicts: list[Verdict] = []
        self._num_valid = 0  # verdicts that belong to the text's present tokens
        self._result: Result | None = None
        self._releasable_chars = 0
        self._calls = StreamCalls()

    @property
    def findings(self) -> Sequence[DetectorFinding]:
        """Nothing: detectors read a response through a `DetectingStream`."""
        return ()

    def masked(self, start: int, end: int) -> str | None:
        """Return None: nothing is masked."""
        return None

    def listen(self, on_text: Callable[[str], object]) -> None:
        """Have something else given the characters of the response, as they are counted, before they are judged."""
        before = self._text.on_text

        def tell(text: str) -> None:
            if before is not None:
                before(text)
            on_text(text)

        self._text.on_text = tell

    def add_prompt(self, earlier: Result) -> None:
        """Let a further prompt of the conversation count, which was judged by itself; the worse of the two is shown."""
        result = with_prompt(Result(self._prompt_decision or ALLOWED, self.prompt), earlier)
        self.prompt, self._prompt_decision = result.prompt, result.decision

    @property
    def decision(self) -> Decision:
        """Decision on everything judged so far, the prompt included. It never becomes milder."""
        return combine(self._prompt_decision, self._state.decision)

    @property
    def releasable_chars(self) -> int:
        """Characters from the start that were judged and are not over the policy's threshold.

        Tokens that are over the threshold but too few for the policy to act are not counted until the next ones show
        them harmless or the text is finished.
        """
        return self._releasable_chars

    @property
    def response(self) -> SideResult:
        """Judgement of what was fed so far."""
        with self._calls.lock:
            return self._judgement()

    @property
    def num_tokens(self) -> int:
        """Tokens judged so far."""
        return len(self._verdicts)

    def feed(self, piece: Piece) -> list[Event]:
        """Judge the next piece of the response.

        Args:
            piece: Text, UTF-8 bytes or token ids of the guard's own tokenizer. May end anywhere, even inside a
                character.

        Returns:
            One event for each newly judged token; none if the piece completed no token. When a piece changes how the
            end of the text is tokenised, positions seen before come again.

        Raises:
            StreamClosedError: The stream is closed or finished.
            InputError: The piece is of another type, or a token id is out of range. Nothing was taken in.
            ContextLengthError: The response would exceed the moderator's `max_chars`. Nothing was taken in.
            OverloadedError: No room at present. The piece was taken in; feed an empty one to try again.
            CallCancelledError: The call was cancelled. Likewise, unless that was before the piece was taken in.
        """
        return run_blocking(self.feed_coroutine(piece))

    async def feed_coroutine(self, piece: Piece) -> list[Event]:
        """Do what `feed` does, as a `GuardCoroutine`."""
        with self._calling():
            self._check_open()
            self._check_piece(piece)
            current_call().begin()
            ended = [self._end_reasoning()] if self._phase is _Phase.REASONING else []
            self._phase = _Phase.ANSWER
            return await self._apply(self._joined(*ended, self._take(piece)))

    def feed_reasoning(self, piece: Piece) -> list[Event]:
        """Judge the next piece of what the assistant thinks before its answer.

        Positions and characters are counted through reasoning and answer. Tokens that the chat template puts around
        the reasoning are judged too; their spans are empty.

        Raises:
            StreamClosedError: The stream is closed or finished.
            InputError: The answer has begun, or the guard's template has no place for reasoning; else as `feed`.
            OverloadedError: As `feed`.
            CallCancelledError: As `feed`.
        """
        return run_blocking(self.feed_reasoning_coroutine(piece))

    async def feed_reasoning_coroutine(self, piece: Piece) -> list[Event]:
        """Do what `feed_reasoning` does, as a `GuardCoroutine`."""
        with self._calling():
            self._check_open()
            self._check_piece(piece)
            frame = self._reasoning.frame
            if frame is None:
                raise InputError("this guard's chat template has no place for reasoning; feed the answer only")
            if self._phase is _Phase.ANSWER:
                raise InputError("the answer has begun; reasoning comes before it")
            current_call().begin()
            begun: list[Edit] = []
            if self._phase is _Phase.NOTHING:
                self._judge.drop_context(self._reasoning.num_without)
                self._phase = _Phase.REASONING
                begun = [self._text.feed_template_tokens(frame.before)]
            return await self._apply(self._joined(*begun, self._take(piece)))

    def truncate(self, num_chars: int) -> list[Event]:
        """Drop all characters of the response but the first ones, with their verdicts and what was decided by them.

        The cache is cut back to the tokens that stay. Tokens at the new end that read otherwise without what followed
        are judged again. The response may go on: verdicts are those of a response that never had the dropped text.

        Args:
            num_chars: Characters to keep, reasoning included.

        Returns:
            One event for each token that was judged again.

        Raises:
            StreamClosedError: The stream is closed or finished.
            InputError: There are fewer characters, or the place is within reasoning that the answer followed, or before
                the end of what was fed as token ids. Nothing was dropped.
            OverloadedError: As `feed`; the text was dropped.
            CallCancelledError: Likewise.
        """
        return run_blocking(self.truncate_coroutine(num_chars))

    async def truncate_coroutine(self, num_chars: int) -> list[Event]:
        """Do what `truncate` does, as a `GuardCoroutine`."""
        with self._calling():
            self._check_open()
            if num_chars < self._answer_start:
                raise InputError(f"num_chars is {num_chars}; the answer begins at character {self._answer_start}")
            current_call().begin()
            edit = self._text.truncate(num_chars)
            self._state.truncate(min(edit.keep, self._num_valid, self._state.num_verdicts))
            return await self._apply(edit)

    def is_quick(self, piece: Piece) -> bool:
        """Say whether feeding a piece costs its thread next to nothing, besides waiting for the engine."""
        is_idle = not self._calls.lock.locked() and self._num_valid == len(self._text.ids)
        return is_idle and len(piece) <= _QUICK_CHARS and not self._judge.holds_thread

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return what token ids say; nothing is fed.

        Raises:
            InputError: An id is out of range.
        """
        return self._text.bytes_of(ids)

    def finish(self) -> Result:
        """Judge what is left (half a character, say) and return the whole result. Closes the stream.

        Raises:
            StreamClosedError: The stream was closed before.
            CallCancelledError: The call was cancelled.
        """
        return run_blocking(self.finish_coroutine())

    async def finish_coroutine(self) -> Result:
        """Do what `finish` does, as a `GuardCoroutine`."""
        with self._calling():
            if self._result is None:
                self._calls.check_finishable()
                ended = [self._end_reasoning()] if self._phase is _Phase.REASONING else []
                await self._apply(self._joined(*ended, self._text.finish()))
                self._judge_short_text()
                self._state.finish()
                self._result = self.so_far()
                self.close()
            return self._result

    def _judge_short_text(self) -> None:
        fired = self._judge.short_text_rules()
        if fired:
            self._state.rollback(0)
            self._verdicts = [replace(verdict, rules=fired) for verdict in self._verdicts]
            for verdict in self._verdicts:
                self._state.observe(verdict)

    def so_far(self) -> Result:
        """Return the result of what was judged, as if the response ended there. Nothing is judged, nothing closed."""
        return self._result or Result(self.decision, self.prompt, self._judgement())

    def cancel(self) -> None:
        """End the call that another thread makes, and every later one; does not wait.

        They raise a CallCancelledError, within one step of the engine. Other streams do not notice. Close the stream.
        """
        self._calls.cancel()

    def close(self) -> None:
        """Free what the stream holds; does not wait. A call that another thread makes ends with a StreamClosedError.

        May be called again.
        """
        if self._calls.close(is_finished=self._result is not None):
            self._on_close()

    def _calling(self) -> AbstractContextManager[None]:
        return self._calls.calling(at_end=self._note_releasable)

    def _note_releasable(self) -> None:
        self._releasable_chars = self._clear_end()

    def _check_open(self) -> None:
        self._calls.check_open(is_finished=self._result is not None)

    def _check_piece(self, piece: object) -> None:
        if isinstance(piece, bytes):
            num_new = len(piece.decode(errors="ignore"))
        elif isinstance(piece, str) or (isinstance(piece, Sequence) and all(type(item) is int for item in piece)):
            num_new = len(piece)
        else:
            raise InputError(f"a piece is of type {type(piece).__name__}; it must be str, bytes or a list of token ids")
        if self._text.num_chars + num_new > self._max_chars:
            raise ContextLengthError(
                f"the response would have {self._text.num_chars + num_new} characters; "
                f"at most {self._max_chars} are accepted (max_chars)"
            )

    def _take(self, piece: Piece) -> Edit:
        return self._text.feed(piece) if isinstance(piece, str | bytes) else self._text.feed_ids(piece)

    def _end_reasoning(self) -> Edit:
        assert self._reasoning.frame is not None
        self._phase = _Phase.ANSWER
        edit = self._text.feed_template_tokens(self._reasoning.frame.after)
        self._answer_start = self._text.num_chars
        return edit

    def _joined(self, *edits: Edit) -> Edit:
        """Return successive edits as one. All of a call is taken in before anything of it is judged."""
        if len(edits) == 1:
            return edits[0]
        keep = min(edit.keep for edit in edits)
        return Edit(keep, self._text.ids[keep:], self._text.spans[keep:])

    async def _apply(self, edit: Edit) -> list[Event]:
        keep = min(edit.keep, self._num_valid)
        new_ids, new_spans = edit.new_ids, edit.new_spans
        if keep < edit.keep:  # an earlier piece was taken in but could not be judged
            new_ids, new_spans = self._text.ids[keep:], self._text.spans[keep:]
        self._num_valid = keep
        fresh = await self._judge.replace(keep, new_ids, spans=new_spans)
        self._state.rollback(keep)
        self._verdicts[keep:] = fresh
        self._num_valid = keep + len(fresh)
        events = []
        for verdict in fresh:
            self._state.observe(verdict)
            events.append(Event(verdict, combine(self._prompt_decision, self._state.commit())))
        return events

    def _clear_end(self) -> int:
        if self._result is not None and not is_stopped(self._state.decision):
            return self._text.num_chars
        return releasable_end(self._policy, self._verdicts, self._state.decision)

    def _judgement(self) -> SideResult:
        found = self._state.side_result(thresholds=self._thresholds, windows=self._judge.num_windows)
        if found is not None:
            return found
        return SideResult(
            RiskLevel.SAFE, None, {RiskLevel.SAFE: 1.0, RiskLevel.CONTROVERSIAL: 0.0, RiskLevel.UNSAFE: 0.0}
        )
