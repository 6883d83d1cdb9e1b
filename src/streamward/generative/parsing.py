"""Reads what a Gen guard writes: `Safety: ...`, `Categories: ...`, `Refusal: ...`."""

import re
from dataclasses import dataclass

from streamward.errors import UpstreamError
from streamward.schema import Category, RiskLevel

_REASONING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FIELD = re.compile(r"\s*(safety|categories|category|refusal)\s*:(.*)", re.IGNORECASE)
_LEVELS = {level.value.lower(): level for level in RiskLevel}
_CATEGORIES = {category.value.lower(): category for category in Category}
_REFUSALS = {"yes": True, "no": False}
NO_CATEGORY = "None"


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A Gen guard's answer, parsed.

    Attributes:
        risk_level: The level it named.
        categories: The kinds of harm it named, in its order; empty for `None`.
        refusal: Whether the response declines to help; None if it did not say.
    """

    risk_level: RiskLevel
    categories: tuple[Category, ...] = ()
    refusal: bool | None = None


def parse_answer(text: str) -> ParsedAnswer:
    """Read an answer. Nothing is guessed: what cannot be read is an error, never Safe.

    Args:
        text: The whole answer; reasoning before it is skipped, lines may come in any order.

    Raises:
        UpstreamError: A line is missing, unknown or there twice with different values. Says which, not the text.
    """
    fields = _read_fields(_without_reasoning(text))
    if "safety" not in fields:
        raise UpstreamError("the guard's answer has no Safety line")
    level = _LEVELS.get(fields["safety"])
    if level is None:
        raise UpstreamError(f"the guard's Safety line is unknown; it must be one of {', '.join(RiskLevel)}")
    categories = _parse_categories(fields.get("categories"), level)
    refusal = fields.get("refusal")
    if refusal is not None and refusal not in _REFUSALS:
        raise UpstreamError("the guard's Refusal line is unknown; it must be Yes or No")
    return ParsedAnswer(level, categories, None if refusal is None else _REFUSALS[refusal])


def _without_reasoning(text: str) -> str:
    answer = _REASONING.sub("", text, count=1)
    if "<think>" in answer:  # cut off while it thought: a level named there is no answer
        raise UpstreamError("the guard's answer ends within its reasoning; it may need more max_tokens")
    return answer


def _read_fields(text: str) -> dict[str, str]:
    """Return the value of each line, in lower case."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        found = _FIELD.fullmatch(line)
        if found is None:
            continue
        name, value = found[1].lower(), " ".join(found[2].lower().split())
        key = "categories" if name == "category" else name
        if fields.setdefault(key, value) != value:
            raise UpstreamError(f"the guard's answer has two {key.capitalize()} lines that differ")
    return fields


def _parse_categories(value: str | None, level: RiskLevel) -> tuple[Category, ...]:
    """Split at commas and compare whole names: `Violent` is also part of `Non-violent Illegal Acts`."""
    if not value:
        if level is RiskLevel.SAFE:
            return ()
        raise UpstreamError(f"the guard's answer is {level} without a Categories line")
    names = [name.strip() for name in value.rstrip(".").split(",")]
    if names == [NO_CATEGORY.lower()]:
        return ()
    unknown = sum(name not in _CATEGORIES for name in names)
    if unknown:
        raise UpstreamError(f"the guard's Categories line has {unknown} unknown names; known are {', '.join(Category)}")
    return tuple(dict.fromkeys(_CATEGORIES[name] for name in names))
