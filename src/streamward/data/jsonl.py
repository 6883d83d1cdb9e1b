"""Labelled rows: one JSON object per line, plain or gzipped."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from streamward.data.labels import Labels, with_labels
from streamward.data.rows import read_rows
from streamward.errors import InputError
from streamward.schema import Category, Message, RiskLevel, Role, Span
from streamward.suggestions import suggest

Known = TypeVar("Known", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled prompt, response or both. A label is None where nobody gave one.

    Attributes:
        history: Turns before the prompt.
        categories: Kinds of harm of the judged text; empty means unknown on rows that are not safe.
        unsafe_start: First character from which the response is harmful, where known.
        spans: Characters people marked as unsafe, over the response if there is one, else over the prompt; None if
            nobody marked any.
        group: Rows that must not be split between training and validation share it.
        kind: What sort of text it is, e.g. `comment` for social media; empty if unknown.
    """

    id: str
    source: str
    language: str
    prompt: str
    response: str | None
    prompt_label: RiskLevel | None
    response_label: RiskLevel | None
    refusal: bool | None = None
    categories: tuple[Category, ...] = ()
    unsafe_start: int | None = None
    spans: tuple[Span, ...] | None = None
    history: tuple[Message, ...] = ()
    group: str = ""
    kind: str = ""


def read_samples(path: Path, labels: Labels | None = None) -> Iterator[Sample]:
    """Read rows of `NAME.jsonl` or `NAME.jsonl.gz`.

    Args:
        path: File of rows.
        labels: Label fields that go before the rows' own, by row id.

    Raises:
        InputError: The file cannot be read, or a line is not a row; names the line.
    """
    source = source_name(path)
    for number, row in read_rows(path):
        yield check_row(with_labels(row, labels or {}), where=f"{path}:{number}", source=source)


def source_name(path: Path) -> str:
    """Return what rows of a file are called that name no source themselves."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def check_row(row: Mapping[str, Any], *, where: str, source: str) -> Sample:
    """Read one row of a file.

    Raises:
        InputError: It is none; names the place, not the text.
    """
    try:
        return parse_row(row, source=source)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{where}: a field of the row has a value of another kind than it should") from None


def parse_row(row: Mapping[str, Any], *, source: str) -> Sample:
    """Read one row. Only `prompt` or `response` must be there.

    Raises:
        InputError: A label, category or role is unknown, or there is no text.
        KeyError, TypeError, ValueError: A field is of another kind.
    """
    prompt, response = row.get("prompt"), row.get("response")
    if prompt is None and response is None:
        raise InputError("a row needs a prompt or a response")
    if not all(text is None or isinstance(text, str) for text in (prompt, response)):
        raise InputError("prompt and response must be strings")
    native = row.get("native") or {}
    spans = row.get("spans")
    return Sample(
        id=str(row.get("id", "")),
        source=str(row.get("source") or source),
        language=str(row.get("lang") or ""),
        prompt=prompt or "",
        response=response,
        prompt_label=_level(row, "prompt_label"),
        response_label=_level(row, "response_label"),
        refusal=row.get("refusal"),
        categories=tuple(_known(Category, name, "categories") for name in row.get("categories") or ()),
        unsafe_start=row.get("unsafe_start"),
        spans=None if spans is None else tuple(Span(start, end) for start, end in spans),
        history=tuple(
            Message(_known(Role, turn["role"], "native.history.role"), turn["content"])
            for turn in native.get("history") or ()
        ),
        group=contrastive_pair(native),
        kind=str(native.get("kind") or ""),
    )


def contrastive_pair(native: Mapping[str, Any]) -> str:
    """Return the key that the rows of one contrastive pair share; data sets made earlier call it `twin`."""
    return str(native.get("contrastive_pair") or native.get("twin") or "")


def _level(row: Mapping[str, Any], field: str) -> RiskLevel | None:
    name = row.get(field)
    return None if name is None else _known(RiskLevel, name, field)


def _known(kind: type[Known], name: object, field: str) -> Known:
    """Return the value of that name; the name itself may be text of the row, so it is not repeated."""
    try:
        return kind(name)  # type: ignore[arg-type]  # what is no string is the error below
    except ValueError:
        near = suggest(name, kind) if isinstance(name, str) else ""
        raise InputError(f"{field} must be one of {', '.join(kind)}{near}") from None
