"""A made row, and answers put together from harmless and harmful parts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, TypeVar

from streamward.schema import Category, RiskLevel

SOURCE = "streamward-synthesis"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SyntheticRow:
    """One row before it has an id. Fields as in `streamward.data.jsonl.Sample`.

    Attributes:
        pair: Key of the contrastive pair; rows about the same pair share it.
        family: Which function made it.
    """

    language: str
    family: str
    topic: str
    pair: str
    prompt: str
    prompt_label: RiskLevel | None
    categories: tuple[Category, ...] = ()
    response: str | None = None
    response_label: RiskLevel | None = None
    refusal: bool | None = None
    unsafe_start: int | None = None
    history: tuple[tuple[str, str], ...] = ()

    def as_json(self, row_id: str) -> dict[str, Any]:  # Any: JSON values
        """Return the row in the common schema."""
        native: dict[str, Any] = {
            "label_basis": "by-construction",
            "kind": "prompt" if self.response is None else "dialogue",
            "authoring": "template",
            "family": self.family,
            "topic": self.topic,
            "contrastive_pair": self.pair,
        }
        if self.history:
            native["history"] = [{"role": role, "content": text} for role, text in self.history]
        row: dict[str, Any] = {
            "id": row_id,
            "source": SOURCE,
            "license": "CC0-1.0",
            "lang": self.language,
            "prompt": self.prompt,
            "response": self.response,
            "prompt_label": self.prompt_label,
            "response_label": self.response_label,
            "refusal": self.refusal,
            "categories": list(self.categories),
            "native": native,
        }
        if self.unsafe_start is not None:
            row["unsafe_start"] = self.unsafe_start
        return row

    def answered(self, answer: "SyntheticResponse") -> "SyntheticRow":
        """Return the row with this answer; an answer's kind of harm joins the prompt's."""
        return dataclasses.replace(
            self,
            response=answer.text,
            response_label=answer.level,
            refusal=answer.refusal,
            unsafe_start=answer.unsafe_start,
            categories=tuple(dict.fromkeys((*self.categories, *answer.categories))),
        )


class ResponsePart(NamedTuple):
    """A piece of an answer, and whether it is the harmful one."""

    text: str
    is_harmful: bool = False


@dataclass(frozen=True, slots=True)
class SyntheticResponse:
    """A response and its labels; `unsafe_start` is its first harmful character."""

    text: str
    level: RiskLevel
    refusal: bool | None = False
    unsafe_start: int | None = None
    categories: tuple[Category, ...] = ()


def assemble(
    parts: Sequence[ResponsePart], *, level: RiskLevel, categories: tuple[Category, ...] = (), separator: str = " "
) -> SyntheticResponse:
    """Join parts; the answer has the level if a part of it is harmful, else it is Safe."""
    text, start = "", None
    for part in parts:
        if not part.text:
            continue
        if text and not text[-1].isspace():
            text += separator
        if part.is_harmful and start is None:
            start = len(text)
        text += part.text
    if start is None:
        return SyntheticResponse(text, RiskLevel.SAFE)
    return SyntheticResponse(text, level, unsafe_start=start, categories=categories)


def maybe(rng: Random, texts: Sequence[str], *, probability: float) -> str:
    """Return one of the texts, or nothing."""
    return rng.choice(texts) if texts and rng.random() < probability else ""


def some(rng: Random, choices: Sequence[T], *, most: int) -> list[T]:
    """Return one to `most` different ones, in random order."""
    return rng.sample(choices, min(len(choices), rng.randint(1, most)))
