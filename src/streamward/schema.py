"""The words of the product: messages, risk levels, categories, verdicts, decisions. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """The author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Side(StrEnum):
    """The judged side of the conversation; each has heads, thresholds and actions of its own."""

    PROMPT = "prompt"
    RESPONSE = "response"


class RiskLevel(StrEnum):
    """The severity of a text, from least to most severe (Qwen3Guard, arXiv 2510.14276, section 2)."""

    SAFE = "Safe"
    CONTROVERSIAL = "Controversial"
    UNSAFE = "Unsafe"

    @property
    def severity(self) -> int:
        """0 for Safe, 1 for Controversial, 2 for Unsafe."""
        return _SEVERITY[self]


_SEVERITY: Mapping[RiskLevel, int] = {level: rank for rank, level in enumerate(RiskLevel)}


class Category(StrEnum):
    """The kind of harm (Qwen3Guard, arXiv 2510.14276, section 2)."""

    VIOLENT = "Violent"
    ILLEGAL_ACTS = "Non-violent Illegal Acts"
    SEXUAL = "Sexual Content or Sexual Acts"
    PII = "PII"
    SELF_HARM = "Suicide & Self-Harm"
    UNETHICAL = "Unethical Acts"
    POLITICAL = "Politically Sensitive Topics"
    COPYRIGHT = "Copyright Violation"
    JAILBREAK = "Jailbreak"


class Action(StrEnum):
    """The action that the caller should take, from least to most severe."""

    ALLOW = "allow"
    FLAG = "flag"
    REPLACE = "replace"
    BLOCK = "block"

    @property
    def severity(self) -> int:
        """0 for allow up to 3 for block."""
        return _ACTION_SEVERITY[self]


_ACTION_SEVERITY: Mapping[Action, int] = {action: rank for rank, action in enumerate(Action)}


class Span(NamedTuple):
    """Half-open range of characters (code points) in the caller's text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said.
        reasoning: An assistant's thoughts before the answer; rendered between `<think>` and `</think>`.
        is_tool_result: Whether a user's turn is what a tool returned.
        has_calls: Whether an assistant's turn calls tools; what they are called with is part of the content.
        is_call_only: Whether it says nothing else.
    """

    role: Role
    content: str
    reasoning: str | None = None
    is_tool_result: bool = field(default=False, compare=False)
    has_calls: bool = field(default=False, compare=False)
    is_call_only: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class FiredRule:
    """A rule of the policy that a text breaks.

    Attributes:
        id: Id of the rule.
        score: How much the text breaks it, in [0, 1]; at a taught rule 0.5 is where teaching put the threshold.
    """

    id: str
    score: float


@dataclass(frozen=True, slots=True)
class CategoryScore:
    """One kind of harm, where several may be meant.

    Attributes:
        category: Kind of harm.
        probability: Share of this kind among all kinds of harm; says nothing about how harmful the text is.
    """

    category: Category
    probability: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The guard's judgement at one token.

    Attributes:
        position: Index of the token among the tokens judged on this side, 0-based.
        risk_level: The level at the guard's operating point (the most probable one if it states none).
        probabilities: Probability of each level; they sum to 1.
        category: The most probable kind of harm; None when the level is safe.
        span: Characters of the caller's text that the token covers; None on a prompt's closing token.
        categories: Every kind of harm of some probability, the primary first; empty when the level is safe.
        rules: Rules of the policy over their thresholds at this token, in the order of the policy.
    """

    position: int
    risk_level: RiskLevel
    probabilities: Mapping[RiskLevel, float]
    category: Category | None = None
    span: Span | None = None
    categories: tuple[CategoryScore, ...] = ()
    rules: tuple[FiredRule, ...] = ()


class FirstFlagged(NamedTuple):
    """The first flagged place of a text. Deprecated: `SideResult` has both numbers as fields of their own."""

    position: int
    """Index of the token, 0-based."""
    char: int
    """Index of the token's first character in the caller's text."""


@dataclass(frozen=True, slots=True)
class SideResult:
    """The guard's judgement of one whole prompt or response.

    Attributes:
        risk_level: The most severe level that held for as many successive tokens as the policy asks.
        category: The kind of harm at that point; None when the level is safe.
        probabilities: Probability of each level at that point, or where risk was highest if the level is safe.
        refusal: Whether the response declines to help; None where the guard does not say.
        windows: Number of overlapping windows the text was judged in; 1 unless it exceeds the context.
        verdicts: One per judged token: all of a response, the closing one of each window of a prompt.
        first_flagged_char: Index of the first character (code point) of the first flagged token in the caller's text. A
            token is flagged when it completes as many successive tokens over the threshold as the policy asks. None if
            no token was flagged, or the text was judged as a whole.
        first_flagged_token: Index of that token among the tokens judged on this side, 0-based; None likewise.
        thresholds: What P(Unsafe) must reach to be Unsafe, and P(Unsafe) + P(Controversial) to be Controversial, for
            the kind of harm at that point; a level without a threshold counts where it is the most probable.
        categories: Every kind of harm over the policy's `category_threshold` there, the primary first.
        rules: Rules of the policy that held for as many successive tokens as the policy asks, with their highest
            scores, in the order of the policy. Their severity counts for the level too.
        first_flagged: Deprecated, until the next release: both indices as a pair, token first.
    """

    risk_level: RiskLevel
    category: Category | None
    probabilities: Mapping[RiskLevel, float]
    refusal: bool | None = None
    windows: int = 1
    verdicts: tuple[Verdict, ...] = ()
    first_flagged_char: int | None = None
    first_flagged_token: int | None = None
    thresholds: Mapping[RiskLevel, float] = field(default_factory=dict)
    categories: tuple[Category, ...] = ()
    rules: tuple[FiredRule, ...] = ()
    first_flagged: FirstFlagged | None = field(init=False, default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Fill in the former name of the two indices."""
        if self.first_flagged_char is not None and self.first_flagged_token is not None:
            former = FirstFlagged(self.first_flagged_token, self.first_flagged_char)
            object.__setattr__(self, "first_flagged", former)  # the class is frozen

    @property
    def num_tokens(self) -> int:
        """Number of tokens that were judged on this side."""
        return len(self.verdicts)


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's conclusion.

    Attributes:
        action: What the caller should do.
        side: Which side caused it; None when everything is allowed.
        risk_level: The level that caused it; None when the guard failed, or a detector caused it.
        category: The kind of harm that caused it.
        position: Token of the response at which it became final; None for prompts and whole-text guards.
        message: What to say instead, for `replace`.
        error: Code of the error, when the guard could not judge.
        detector: Id of the policy's detector whose finding caused it; None if the guard did.
        rules: Every rule of the policy that the text breaks, whatever its action, with their highest scores.
    """

    action: Action
    side: Side | None = None
    risk_level: RiskLevel | None = RiskLevel.SAFE
    category: Category | None = None
    position: int | None = None
    message: str | None = None
    error: str | None = None
    detector: str | None = None

    @property
    def is_blocked(self) -> bool:
        """True if nothing more of the text may be shown: the action is replace or block."""
        return self.action.severity >= Action.REPLACE.severity

    rules: tuple[FiredRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One newly judged token of a stream, and what follows from it.

    Attributes:
        verdict: The token's verdict.
        decision: The stream's decision up to and including this token. It never becomes milder.
        side: Which side the token belongs to.
    """

    verdict: Verdict
    decision: Decision
    side: Side = Side.RESPONSE


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a moderation.

    Attributes:
        decision: The policy's conclusion over everything judged.
        prompt: Judgement of the last user turn; None if there was none.
        response: Judgement of the last assistant turn; None if there was none.
    """

    decision: Decision
    prompt: SideResult | None = None
    response: SideResult | None = None
