"""Rules in words, what a guard that reads them says of a text, and what the answer cost."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from streamward.errors import ConfigError
from streamward.schema import Message, RiskLevel

MAX_RULES = 100
MAX_RULE_CHARS = 32_000  # of all rules together, about 8,000 tokens


class RuleTarget(StrEnum):
    """The texts to which a rule applies."""

    PROMPT = "prompt"
    RESPONSE = "response"
    TOOL_ARGUMENTS = "tool_arguments"
    TOOL_RESULTS = "tool_results"


@dataclass(frozen=True, slots=True)
class GuardRule:
    """One rule of a policy, in words.

    Attributes:
        id: Names the rule in findings: letters, digits, and `_ . -` within.
        text: What is not allowed.
        severity: Level of a text that violates it: Unsafe or Controversial.
        applies_to: Texts it is about.
        examples: Texts that violate it.
        counter_examples: Texts that look alike and do not.
    """

    id: str
    text: str
    severity: RiskLevel = RiskLevel.UNSAFE
    applies_to: frozenset[RuleTarget] = frozenset(RuleTarget)
    examples: tuple[str, ...] = ()
    counter_examples: tuple[str, ...] = ()

    @property
    def num_chars(self) -> int:
        """Characters of all its words."""
        return len(self.id) + len(self.text) + sum(map(len, (*self.examples, *self.counter_examples)))


@dataclass(frozen=True, slots=True)
class RuleOpinion:
    """A guard's opinion about one rule.

    Attributes:
        rule_id: The rule.
        violated: Whether the text violates it.
        score: Probability of a violation, in [0, 1]; None if the guard gives none.
        explanation: Why, in the guard's words, which may quote the text; None if it does not say. Never logged.
    """

    rule_id: str
    violated: bool
    score: float | None = None
    explanation: str | None = None


@dataclass(frozen=True, slots=True)
class CallUsage:
    """The cost of asking a guard.

    Attributes:
        calls: HTTP requests that were sent, repeated ones included.
        prompt_tokens: Tokens the guard read, as its server counts them; those it had in its cache are included.
        cached_tokens: Those it had in its cache.
        completion_tokens: Tokens it wrote.
        seconds: From the first request to the last answer.
    """

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RuleReport:
    """A guard's opinion about all rules that apply to a text.

    Attributes:
        opinions: One for each rule, in the order of the rules.
        usage: What it took.
    """

    opinions: tuple[RuleOpinion, ...]
    usage: CallUsage = CallUsage()


class RuleGuard(Protocol):
    """Judges a text by rules in words, as `streamward.policy_guards.guard.PolicyGuard` does."""

    def judge(
        self,
        messages: Sequence[Message],
        rules: Sequence[GuardRule],
        *,
        targets: Collection[RuleTarget] | None = None,
        deadline_s: float | None = None,
    ) -> RuleReport:
        """Judge the last turn of a conversation by the rules that apply to it.

        Raises:
            UpstreamError: There is no answer that can be read.
            UpstreamUnavailableError: There is no answer.
            CallCancelledError: The current call was cancelled.
        """
        ...

    def close(self) -> None:
        """Free what the guard holds."""
        ...


def check_rules(rules: Sequence[GuardRule]) -> None:
    """Refuse rules that no guard could be asked about.

    Raises:
        ConfigError: Two rules have one id, an id or a text is not usable, or there are too many of them.
    """
    if len(rules) > MAX_RULES:
        raise ConfigError(f"there are {len(rules)} rules; at most {MAX_RULES} can be asked about")
    num_chars = sum(rule.num_chars for rule in rules)
    if num_chars > MAX_RULE_CHARS:
        raise ConfigError(f"the rules have {num_chars} characters; at most {MAX_RULE_CHARS} can be asked about")
    check_rule_ids(rules)
    for rule in rules:
        if not rule.text.strip():
            raise ConfigError(f"the rule {rule.id!r} has no text")
        if rule.severity is RiskLevel.SAFE:
            raise ConfigError(f"the rule {rule.id!r} has the severity Safe; it must be Unsafe or Controversial")


def check_rule_ids(rules: Sequence[GuardRule]) -> None:
    """Refuse ids that could not be told apart.

    Raises:
        ConfigError: One is not usable, or two are the same.
    """
    seen: set[str] = set()
    for rule in rules:
        if not is_rule_id(rule.id):
            raise ConfigError(f"the rule id {rule.id!r} must be letters, digits and _ . - within, at most 64")
        if rule.id.lower() in seen:
            raise ConfigError(f"two rules have the id {rule.id!r}; ids are told apart without regard to case")
        seen.add(rule.id.lower())


def is_rule_id(text: str) -> bool:
    """Say whether a text can name a rule: it survives being written by a model, alone and in a list with commas."""
    core = text.replace("_", "a").replace(".", "a").replace("-", "a")
    return 0 < len(text) <= 64 and core.isascii() and core.isalnum() and text[0].isalnum() and text[-1].isalnum()
