"""One rule of a policy: what is not allowed, in words and by examples."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from streamward.schema import Action, RiskLevel, Side
from streamward.settings import Settings

MAX_EXAMPLES = 500
"""Examples of a rule that are used at most, and as many counter-examples."""
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class RuleScope(StrEnum):
    """Texts that a rule is about."""

    PROMPT = "prompt"
    RESPONSE = "response"
    TOOL_ARGUMENTS = "tool_arguments"
    TOOL_RESULTS = "tool_results"

    @property
    def side(self) -> Side:
        """Side that such texts are judged on: results of tools like prompts, arguments as part of a response."""
        return _SIDES[self]


_SIDES: Mapping[RuleScope, Side] = {
    RuleScope.PROMPT: Side.PROMPT,
    RuleScope.RESPONSE: Side.RESPONSE,
    RuleScope.TOOL_ARGUMENTS: Side.RESPONSE,
    RuleScope.TOOL_RESULTS: Side.PROMPT,
}


def _is_rule_id(value: str) -> str:
    if _ID.fullmatch(value) is None:
        raise ValueError("a rule id has 1 to 64 letters, digits and . _ - and begins and ends with a letter or digit")
    return value


def _is_risky(value: RiskLevel) -> RiskLevel:
    if value is RiskLevel.SAFE:
        raise ValueError("the severity of a rule is Controversial or Unsafe")
    return value


RuleId = Annotated[str, AfterValidator(_is_rule_id)]
RuleSeverity = Annotated[RiskLevel, AfterValidator(_is_risky)]


class RuleExample(Settings):
    """A text that breaks a rule, or one that looks alike and does not."""

    prompt: str | None = None
    """The user's text; judged if there is no response, else context."""
    response: str | None = None
    """The assistant's text; judged if given."""
    start: int | None = Field(default=None, ge=0)
    """First character of the judged text that breaks the rule, in code points from 0; None if not known."""

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.text.strip():
            raise ValueError("an example has a prompt or a response with text")
        if self.start is not None and self.start >= len(self.text):
            raise ValueError("start lies behind the end of the text")
        return self

    @property
    def side(self) -> Side:
        """Side that the example is judged on."""
        return Side.PROMPT if self.response is None else Side.RESPONSE

    @property
    def text(self) -> str:
        """Text that is judged."""
        return (self.prompt or "") if self.response is None else self.response


class Rule(Settings):
    """Content that an operator does not want, beside or instead of the built-in categories."""

    id: RuleId
    """Names the rule in verdicts, decisions, logs and metrics."""
    text: str = Field(min_length=1, max_length=8000)
    """The rule in words."""
    severity: RuleSeverity = RiskLevel.UNSAFE
    """Risk level of a text that breaks the rule."""
    applies_to: tuple[RuleScope, ...] = Field(default=(RuleScope.PROMPT, RuleScope.RESPONSE), min_length=1)
    """Texts that the rule is about."""
    action: Action | None = None
    """Action on such a text; by default the side's action on text of that severity."""
    examples: tuple[RuleExample | str, ...] | str = ()
    """Texts that break the rule: in place, or the path of a JSONL file beside the policy. A string in a list is a
    response if the rule applies to responses, else a prompt."""
    counter_examples: tuple[RuleExample | str, ...] | str = ()
    """Texts that look alike and are allowed."""
    exceptions: tuple[str, ...] = ()
    """Exceptions that are allowed, in words."""
    mode: Literal["extend", "replace"] = "extend"
    """extend: the built-in categories count too. replace: they do not, on the sides that the rule applies to."""
    threshold: float = Field(default=0.5, ge=0.0, le=1.0, strict=True)
    """Score from which on a text breaks the rule; 0.5 is where teaching put the threshold."""

    @property
    def sides(self) -> frozenset[Side]:
        """Sides that the rule is judged on."""
        return frozenset(scope.side for scope in self.applies_to)

    @property
    def is_taught(self) -> bool:
        """True if the rule is to be taught from examples; else a guard that reads policies has to judge it."""
        return bool(self.examples)
