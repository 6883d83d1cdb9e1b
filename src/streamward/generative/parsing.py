"""Reads what a Gen guard writes: `Safety: ...`, `Categories: ...`, `Refusal: ...`."""

import re
from dataclasses import dataclass

from streamward.errors import UpstreamError
from streamward.schema import Category, RiskLevel

_REASONING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FIELD = re.compile(r"^\s*(safety|categories|category|refusal)\s*:\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_LEVELS = {level.value.lower(): level for level in RiskLevel}
_CATEGORIES = {category.value.lower(): category for category in Category}
_REFUSALS = {"yes": True, "no": False}
NO_CATEGORY = "None"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a Gen guard said.

    Attributes:
        risk_level: The level it named.
        categories: The kinds of harm it named, in its order; empty for `None`.
        refusal: Whether the response declines to help; None if it did not say.
    """

    risk_level: RiskLevel
    categories: tuple[Category, ...] = ()
    refusal: bool | None = None


def parse_answer(text: str) -> Answer:
    """Read an answer. Nothing is guessed: what cannot be read is an error, never Safe.

    Args:
        text: The whole answer; reasoning before it is skipped, lines may come in any order.

    Raises:
        UpstreamError: A line is missing, unknown or there twice with different values. Says which, not the text.
    """
    fields = _read_fields(_REASONING.sub("", text))
    if "safety" not in fields:
        raise UpstreamError("the guard's answer has no Safety line")
    level = _LEVELS.get(fields["safety"].lower())
    if level is None:
        raise UpstreamError(f"the guard's Safety line is unknown; it must be one of {', '.join(RiskLevel)}")
    if "categories" not in fields and level is not RiskLevel.SAFE:
        raise UpstreamError(f"the guard's answer is {level} without a Categories line")
    refusal = fields.get("refusal", "").lower()
    if refusal and refusal not in _REFUSALS:
        raise UpstreamError("the guard's Refusal line is unknown; it must be Yes or No")
    return Answer(level, _parse_categories(fields.get("categories", NO_CATEGORY)), _REFUSALS.get(refusal))


def _read_fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(text):
        key = "categories" if name.lower() == "category" else name.lower()
        if fields.setdefault(key, value).lower() != value.lower():
            raise UpstreamError(f"the guard's answer has two {name.capitalize()} lines that differ")
    return fields


def _parse_categories(value: str) -> tuple[Category, ...]:
    """Split at commas and compare whole names: `Violent` is also part of `Non-violent Illegal Acts`."""
    names = [name.strip().rstrip(".").lower() for name in value.split(",") if name.strip()]
    if names == [NO_CATEGORY.lower()] or not names:
        return ()
    unknown = sum(name not in _CATEGORIES for name in names)
    if unknown:
        raise UpstreamError(f"the guard's Categories line has {unknown} unknown names; known are {', '.join(Category)}")
    return tuple(dict.fromkeys(_CATEGORIES[name] for name in names))
