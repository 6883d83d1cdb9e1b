"""Conversations in front of a Stream guard: what is read as context, what is judged, what is dropped when too long."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from streamward.decisions import SideState
from streamward.engine.engine import Engine
from streamward.engine.outputs import EngineStatistics, StepOutput, last_token
from streamward.errors import ConfigError, InputError
from streamward.guard_call import current_call
from streamward.model.fingerprint import GuardIdentity
from streamward.moderation.conversation import Conversation
from streamward.moderation.coroutines import Scores, run_blocking
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.guard_stream import GuardStream, ReasoningTokens
from streamward.moderation.health import GuardHealth
from streamward.moderation.response_judge import OVERLAP_SHARE, ResponseJudge
from streamward.moderation.taught_rules import ProbeRegistry, RuleReader
from streamward.moderation.token_scorer import Segment, TokenScorer
from streamward.moderation.verdicts import VerdictReader
from streamward.moderation.window import Windows
from streamward.policy import Policy
from streamward.schema import Decision, Message, Result, RiskLevel, Role, Side, SideResult, Span, Verdict
from streamward.text_stream import TextStream
from streamward.tokenizer import GuardTokenizer, Rendered

CONTEXT_SHARE = 2  # the context of a response takes at most half of a window
_MIN_PROMPT_TOKENS = 16  # tokens of a prompt in each of its windows, without template and system turn


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A judged user turn."""

    judgement: SideResult
    decision: Decision


class StreamGuard:
    """A guard that judges the prompt at its closing token and the response at every token. Thread-safe.

    A text longer than the guard's window is judged in overlapping windows. Of a conversation that does not fit, the
    oldest turns are left out first, then the beginning of the user's last turn (as context of the response only: as a
    prompt all of it is judged).
    """

    def __init__(
        self, tokenizer: GuardTokenizer, scorer: TokenScorer, *, identity: GuardIdentity | None = None
    ) -> None:
        """Take over a scorer: `EngineWorker(engine)`, or one whose engines are elsewhere.

        Raises:
            ConfigError: The guard's window does not hold its own template.
        """
        config, limit = scorer.guard_config, scorer.max_stream_tokens
        self._tokenizer = tokenizer
        self._scorer = scorer
        self._identity = identity if isinstance(scorer, EngineWorker) else None
        self._probes = ProbeRegistry(self, self._identity)
        self._readers = {side: VerdictReader(config, side) for side in Side}
        self._window_tokens = min(config.window_tokens or limit, limit)
        self._reasoning = _reasoning_tokens(tokenizer)
        needed = CONTEXT_SHARE * (len(tokenizer.render([], is_open=True).ids) + _MIN_PROMPT_TOKENS)
        if self._window_tokens < needed:
            raise ConfigError(f"max_stream_tokens is {self._window_tokens}; this guard needs at least {needed}")

    @property
    def engine(self) -> Engine:
        """The engine that reads the tokens, if it is in this process."""
        assert isinstance(self._scorer, EngineWorker), "the engines are elsewhere"
        return self._scorer.engine

    @property
    def identity(self) -> GuardIdentity | None:
        """Identity of the guard; None if it is not known, or the engines are elsewhere."""
        return self._identity

    @property
    def tokenizer(self) -> GuardTokenizer:
        """The checkpoint's tokenizer."""
        return self._tokenizer

    def check_policy(self, policy: Policy) -> None:
        """Refuse a policy with rules that this guard cannot judge.

        Raises:
            ConfigError: A rule is not taught, or was taught on another guard.
        """
        self._probes.check(policy)

    def judge(self, conversation: Conversation, policy: Policy) -> Result:
        """Judge a whole conversation; the same verdicts as in a stream.

        Raises:
            InputError: The chat template refuses the conversation.
            OverloadedError: There is no room at present.
            CheckpointError: The heads give non-finite probabilities.
        """
        return run_blocking(self.judge_coroutine(conversation, policy))

    async def judge_coroutine(self, conversation: Conversation, policy: Policy) -> Result:
        """Do what `judge` does, as a `GuardCoroutine`."""
        if conversation.response is None:
            with self._probes.taken(policy), self._scorer.temporary_stream() as stream_id:
                prompt = await self._read_prompt(stream_id, conversation.context, policy)
            return Result(prompt.decision, prompt.judgement)
        with await self.open_stream_coroutine(conversation, policy) as stream:
            if conversation.response.reasoning is not None:
                await stream.feed_reasoning_coroutine(conversation.response.reasoning)
            await stream.feed_coroutine(conversation.response.content)
            return await stream.finish_coroutine()

    def open_stream(self, conversation: Conversation, policy: Policy, *, max_chars: int = sys.maxsize) -> GuardStream:
        """Read a conversation's context, judge its prompt and wait for the response.

        Raises:
            InputError: The chat template refuses the conversation.
            OverloadedError: There is no room at present.
            CheckpointError: The heads give non-finite probabilities.
        """
        return run_blocking(self.open_stream_coroutine(conversation, policy, max_chars=max_chars))

    async def open_stream_coroutine(
        self, conversation: Conversation, policy: Policy, *, max_chars: int = sys.maxsize
    ) -> GuardStream:
        """Do what `open_stream` does, as a `GuardCoroutine`."""
        release = self._probes.take(policy)
        try:
            stream_id = self._scorer.open()
        except BaseException:
            release()
            raise

        def close() -> None:
            self._scorer.close_stream(stream_id)
            release()

        try:
            return await self._start(stream_id, conversation, policy, max_chars, close)
        except BaseException:
            close()
            raise

    def thresholds(self, side: Side) -> Mapping[RiskLevel, float]:
        """Return the guard's own thresholds of a side; empty where the most probable level counts."""
        return self._readers[side].thresholds

    def health(self) -> GuardHealth:
        """Say whether tokens are read."""
        return self._scorer.health()

    def engine_statistics(self) -> EngineStatistics | None:
        """Return what the engine has computed and reused so far; None if the engines are elsewhere."""
        return self._scorer.engine.statistics if isinstance(self._scorer, EngineWorker) else None

    def close(self) -> None:
        """Close all streams, and free what reads their tokens."""
        self._scorer.close()

    async def _start(
        self,
        stream_id: int,
        conversation: Conversation,
        policy: Policy,
        max_chars: int,
        close: Callable[[], None],
    ) -> GuardStream:
        limit = self._window_tokens // CONTEXT_SHARE
        context = self._tokenizer.render(conversation.context, is_open=True)
        prompt: _Prompt | None = None
        if len(context.ids) <= limit:
            prompt = await self._read_context(stream_id, context, policy, has_prompt=conversation.has_prompt)
        else:
            if conversation.has_prompt:
                with self._scorer.temporary_stream() as other:
                    prompt = await self._read_prompt(other, conversation.context, policy)
            context = self._shortened(conversation.context, limit)
            await self._score(stream_id, [(context.ids, None)])
        judge = ResponseJudge(
            self._scorer,
            self._readers[Side.RESPONSE],
            stream_id=stream_id,
            context_length=len(context.ids),
            window_tokens=self._window_tokens,
            rules=RuleReader(policy, Side.RESPONSE),
        )
        return GuardStream(
            TextStream(self._tokenizer),
            judge,
            policy=policy,
            prompt=None if prompt is None else prompt.judgement,
            prompt_decision=None if prompt is None else prompt.decision,
            reasoning=self._reasoning,
            thresholds=self._readers[Side.RESPONSE].thresholds,
            max_chars=max_chars,
            on_close=close,
        )

    async def _read_context(
        self, stream_id: int, context: Rendered, policy: Policy, *, has_prompt: bool
    ) -> _Prompt | None:
        """Read a context that fits; its prompt is judged on the way."""
        position = context.prompt_position
        if not has_prompt or position is None:
            await self._score(stream_id, [(context.ids, None)])
            return None
        verdict = await self._read_closing(stream_id, context.ids, first_owned(context), position, policy)
        return _judged([verdict], policy, self._readers[Side.PROMPT])

    async def _read_prompt(self, stream_id: int, context: Sequence[Message], policy: Policy) -> _Prompt:
        """Judge the user's last turn, which the context ends with, in as many windows as it needs."""
        rendered = self._fitting(context, self._window_tokens)
        position = rendered.prompt_position
        assert position is not None, "a context with a prompt ends with a user's turn"
        if position < self._window_tokens:
            ids, first = rendered.ids[: position + 1], first_owned(rendered)
            verdict = await self._read_closing(stream_id, ids, first, position, policy)
            return _judged([verdict], policy, self._readers[Side.PROMPT])
        before, content, after = _split(rendered)
        size = self._window_tokens - len(before) - len(after)
        windows = Windows(size, size // OVERLAP_SHARE)
        verdicts = []
        for index in range(windows.index(len(content) - 1) + 1):
            part = slice(windows.start(index), windows.end(index))
            spans = [span for _, span in content[part]]
            ids = [*before, *(token_id for token_id, _ in content[part]), *after]
            self._scorer.truncate(stream_id, 0)
            span = Span(spans[0].start, spans[-1].end)
            found = await self._read_closing(stream_id, ids, len(before), len(ids) - 1, policy, index=index, span=span)
            verdicts.append(found)
        return _judged(verdicts, policy, self._readers[Side.PROMPT])

    async def _read_closing(
        self,
        stream_id: int,
        ids: Sequence[int],
        first: int,
        closing: int,
        policy: Policy,
        *,
        index: int = 0,
        span: Span | None = None,
    ) -> Verdict:
        """Read a rendered prompt, judge it at its closing token, and read what follows.

        Args:
            stream_id: An empty stream.
            ids: Rendered prompt.
            first: Index of the first token of the text that is judged; the rules are pooled from there on.
            closing: Index of the closing token.
            policy: With the rules, if any.
            index: Index of the window.
            span: Characters of the window.
        """
        judged = first if policy.rules_for(Side.PROMPT) else closing
        segments: list[Segment] = [
            (ids[:judged], None),
            (ids[judged : closing + 1], Side.PROMPT),
            (ids[closing + 1 :], None),
        ]
        outputs = await self._score(stream_id, segments)
        rules = RuleReader(policy, Side.PROMPT)
        for output in outputs:
            rules.read(output)
        last = last_token(outputs[-1])
        (verdict,) = self._readers[Side.PROMPT].read(last, first_position=index, spans=[span])
        fired = rules.last()
        return replace(verdict, rules=fired) if fired else verdict

    async def _score(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        return await Scores(self._scorer.submit(stream_id, segments))

    def _fitting(self, context: Sequence[Message], limit: int) -> Rendered:
        """Render a context, without its oldest turns as far as needed; the system's turn stays as long as possible."""
        current_call().check()  # a long text takes a second to tokenise
        head = list(context[:1]) if context and context[0].role is Role.SYSTEM else []
        turns = list(context[len(head) :])
        rendered = self._tokenizer.render([*head, *turns], is_open=True)
        while len(rendered.ids) > limit and len(turns) > 1:
            del turns[0]
            rendered = self._tokenizer.render([*head, *turns], is_open=True)
        if head and len(rendered.ids) > limit and self._frame_length(rendered) + _MIN_PROMPT_TOKENS > limit:
            rendered = self._tokenizer.render(turns, is_open=True)
        return rendered

    def _shortened(self, context: Sequence[Message], limit: int) -> Rendered:
        """Render a context that fits: what is left of a long last turn is its end."""
        rendered = self._fitting(context, limit)
        excess = len(rendered.ids) - limit
        if excess <= 0:
            return rendered
        owned = _last_owned(rendered)
        dropped = set(owned[:excess])
        kept = [index for index in range(len(rendered.ids)) if index not in dropped]
        return Rendered(
            [rendered.ids[index] for index in kept],
            [rendered.owners[index] for index in kept],
            [rendered.spans[index] for index in kept],
            None,
        )

    @staticmethod
    def _frame_length(rendered: Rendered) -> int:
        return len(rendered.ids) - len(_last_owned(rendered))


def first_owned(rendered: Rendered) -> int:
    """Return the index of the first token that holds text of the last user turn; of the closing one if none does."""
    position = rendered.prompt_position
    assert position is not None, "there is a user turn"
    owner = next((rendered.owners[i] for i in range(position, -1, -1) if rendered.owners[i] is not None), None)
    return next((i for i in range(position) if owner is not None and rendered.owners[i] == owner), position)


def _last_owned(rendered: Rendered) -> list[int]:
    """Return the indices of the tokens that hold text of the last message."""
    last = max((owner for owner in rendered.owners if owner is not None), default=None)
    return [index for index, owner in enumerate(rendered.owners) if owner == last and owner is not None]


def _split(rendered: Rendered) -> tuple[list[int], list[tuple[int, Span]], list[int]]:
    """Split a rendered prompt into what is before its text, its text's tokens, and the rest up to the closing one."""
    owned = _last_owned(rendered)
    content = [(rendered.ids[index], rendered.spans[index] or Span(0, 0)) for index in owned]
    assert rendered.prompt_position is not None
    return rendered.ids[: owned[0]], content, rendered.ids[owned[-1] + 1 : rendered.prompt_position + 1]


def _judged(verdicts: Sequence[Verdict], policy: Policy, reader: VerdictReader) -> _Prompt:
    state = SideState(policy, Side.PROMPT)
    for verdict in verdicts:
        state.observe(verdict)
    decision = state.finish()
    judgement = state.side_result(windows=len(verdicts), thresholds=reader.thresholds)
    assert judgement is not None, "a prompt has at least one verdict"
    return _Prompt(judgement, decision)


def _reasoning_tokens(tokenizer: GuardTokenizer) -> ReasoningTokens:
    try:
        frame = tokenizer.reasoning_frame()
    except InputError:
        return ReasoningTokens(None, 0)
    without = len(tokenizer.render([], is_open=True).ids)
    return ReasoningTokens(frame, without - len(tokenizer.render([], is_open=True, has_reasoning=True).ids))
