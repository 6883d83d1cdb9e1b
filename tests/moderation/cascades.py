"""A cascade over scripted guards: the first reads marks in the text, the second says what it is told."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from streamward.errors import UpstreamError
from streamward.moderation.cascade import CascadeGuard
from streamward.moderation.conversation import Conversation
from streamward.moderation.guard_stream import GuardStream, ReasoningTokens
from streamward.moderation.health import GuardHealth
from streamward.moderation.second_opinion import SecondGuard
from streamward.policy import Policy
from streamward.policy_guards.config import SecondOpinionConfig
from streamward.policy_guards.rules import CallUsage, GuardRule, RuleOpinion, RuleReport, RuleTarget
from streamward.schema import (
    Category,
    Decision,
    FiredRule,
    Message,
    Result,
    RiskLevel,
    Role,
    Side,
    SideResult,
    Span,
    Verdict,
)
from streamward.text_stream import TextStream
from tests.moderation.guards import guard_tokenizer

TOKENIZER = guard_tokenizer()
STRICT = Policy.load("strict")
RULE = {"id": "no-prices", "text": "Do not name prices."}
MARKS = ((b"#", 0.95), (b"~", 0.5), (b"^", 0.3))  # surely unsafe; unsure, and flagged at 0.5; unsure


def verdict_of(data: bytes, position: int = 0, span: Span | None = None) -> Verdict:
    """Text with a mark is Unsafe with the probability of the mark."""
    unsafe = next((value for mark, value in MARKS if mark in data), 0.01)
    level = RiskLevel.UNSAFE if unsafe >= 0.5 else RiskLevel.SAFE
    probabilities = {RiskLevel.SAFE: 1 - unsafe, RiskLevel.CONTROVERSIAL: 0.0, RiskLevel.UNSAFE: unsafe}
    return Verdict(position, level, probabilities, None if level is RiskLevel.SAFE else Category.VIOLENT, span)


class MarkJudge:
    """Stands for a `ResponseJudge`; `error` is raised once, by the first call that judges anything."""

    num_windows = 1
    holds_thread = False

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def drop_context(self, num_tokens: int) -> None:
        pass

    def short_text_rules(self) -> tuple[FiredRule, ...]:
        return ()

    async def replace(self, keep: int, new_ids: Sequence[int], *, spans: Sequence[Span | None]) -> list[Verdict]:
        if new_ids and self.error is not None:
            error, self.error = self.error, None
            raise error
        found = enumerate(zip(new_ids, spans, strict=True))
        return [verdict_of(TOKENIZER.token_bytes(token), keep + index, span) for index, (token, span) in found]


class MarkGuard:
    """A first guard that reads marks; see `MARKS`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.is_closed = False

    def judge(self, conversation: Conversation, policy: Policy) -> Result:
        with self.open_stream(conversation, policy) as stream:
            if conversation.response is None:
                return Result(stream.decision, stream.prompt)
            stream.feed(conversation.response.content)
            return stream.finish()

    def open_stream(self, conversation: Conversation, policy: Policy, *, max_chars: int = 10**6) -> GuardStream:
        from streamward.decisions import decide

        prompt: SideResult | None = None
        decision: Decision | None = None
        if conversation.has_prompt:
            found = verdict_of(conversation.context[-1].content.encode())
            decision = decide(policy, Side.PROMPT, found)
            level = policy.prompt.level(found)
            prompt = SideResult(
                level, None if level is RiskLevel.SAFE else found.category, found.probabilities, verdicts=(found,)
            )
        return GuardStream(
            TextStream(TOKENIZER),
            MarkJudge(self.error),  # type: ignore[arg-type]  # as it is used
            policy=policy,
            prompt=prompt,
            prompt_decision=decision,
            reasoning=ReasoningTokens(TOKENIZER.reasoning_frame(), 0),
            max_chars=max_chars,
            on_close=lambda: None,
        )

    def health(self) -> GuardHealth:
        return GuardHealth()

    def close(self) -> None:
        self.is_closed = True


class TestSecondGuard:
    """Violates the rules that `says` returns for the last turn's text; remembers what it was asked."""

    __test__ = False

    def __init__(self, says: Callable[[str], Collection[str]] | None = None) -> None:
        self.says = says or (lambda text: ())
        self.asked: list[tuple[list[Message], list[str]]] = []
        self.on_asked: Callable[[str], object] = lambda text: None
        self.is_closed = False

    @property
    def texts(self) -> list[str]:
        return [messages[-1].content for messages, _ in self.asked]

    def judge(
        self,
        messages: Sequence[Message],
        rules: Sequence[GuardRule],
        *,
        targets: Collection[RuleTarget] | None = None,
        deadline_s: float | None = None,
    ) -> RuleReport:
        text = messages[-1].content
        self.asked.append((list(messages), [rule.id for rule in rules]))
        self.on_asked(text)
        violated = self.says(text)
        return RuleReport(
            tuple(RuleOpinion(rule.id, rule.id in violated) for rule in rules), CallUsage(1, 100, 80, 5, 0.25)
        )

    def close(self) -> None:
        self.is_closed = True


def fails(text: str) -> Collection[str]:
    """Say nothing, as a guard that cannot be reached."""
    raise UpstreamError("the guard's endpoint failed")


def config(**changes: Any) -> SecondOpinionConfig:
    """Settings that ask at every sentence, however short."""
    guard = {"base_url": "http://second/v1", "model": "second", "format": "json-schema"}
    return SecondOpinionConfig.parse({"guard": guard, "band": [0.2, 0.8], "min_chars": 0, **changes}, source="test")


def cascade(
    second: TestSecondGuard,
    *,
    first: MarkGuard | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    **changes: Any,
) -> CascadeGuard:
    return CascadeGuard(first or MarkGuard(), SecondGuard(second, config(**changes), clock=clock))


def conversation(prompt: str | None = "q", response: str | None = None) -> Conversation:
    context = () if prompt is None else (Message(Role.USER, prompt),)
    return Conversation(context, None if response is None else Message(Role.ASSISTANT, response))
