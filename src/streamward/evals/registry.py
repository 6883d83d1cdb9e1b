"""The benchmark sets and the published columns they stand beside; the facts are in `sets.toml`."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import Field

from streamward.evals.predictions import OURS, PUBLISHED
from streamward.schema import Side
from streamward.settings import Settings

Kind = Literal["prompt", "response", "refusal"]
Comparable = Literal["same", "nearly", "indicative", "different"]
IN_ONE_COLUMN: frozenset[Comparable] = frozenset({"same", "nearly"})
"""Rows that may stand in one column with the published figure; `nearly` is marked there."""


class SetEntry(Settings):
    """One benchmark set."""

    name: str = Field(min_length=1)
    source: str
    revision: str | None = None
    licence: str
    rows: int | None = Field(default=None, gt=0)
    sides: tuple[Side, ...]
    streamed_prompts: bool = False
    keeps_tokens: bool = False
    has_labels: bool = True
    labels: str
    layout: str | None = None
    hub: str | None = None
    files: tuple[str, ...] = ()


class Member(Settings):
    """Rows of one set: all, or those whose `native` fields have one of the values."""

    set: str
    where: Mapping[str, tuple[bool | int | str, ...]] = {}

    def holds(self, native: Mapping[str, Any]) -> bool:  # Any: JSON values
        """Return True if a row belongs to the column."""
        return all(native.get(key) in values for key, values in self.where.items())


class Column(Settings):
    """A column of the published tables."""

    name: str = Field(min_length=1)
    kind: Kind
    rows: int = Field(gt=0)
    positives: int | None = None
    comparable: Comparable
    note: str = ""
    members: tuple[Member, ...] = Field(min_length=1)


class _Registry(Settings):
    set: tuple[SetEntry, ...]
    column: tuple[Column, ...]


@cache
def _registry() -> _Registry:
    text = files("streamward.evals").joinpath("sets.toml").read_text(encoding="utf-8")
    return _Registry.parse(tomllib.loads(text), source="sets.toml")


def set_entries() -> tuple[SetEntry, ...]:
    """Return every known set."""
    return _registry().set


def columns() -> tuple[Column, ...]:
    """Return every known column of the published tables."""
    return _registry().column


def entry_of(name: str) -> SetEntry:
    """Return a set by name; one that is not known is the user's own, in our schema."""
    known = {entry.name: entry for entry in set_entries()}
    return known.get(name) or SetEntry(
        name=name,
        source="own file",
        licence="not stated",
        sides=tuple(Side),
        keeps_tokens=True,
        labels="as in the file",
    )


def columns_of(set_name: str) -> tuple[Column, ...]:
    """Return the columns that rows of a set belong to."""
    return tuple(column for column in columns() if any(member.set == set_name for member in column.members))


def cohort_of(set_name: str, kinds: Sequence[Kind], native: Mapping[str, Any]) -> str:  # Any: JSON values
    """Return the cohort of a row: `published` if a figure was published for it, else `ours`.

    Args:
        set_name: Its set.
        kinds: What it is judged as.
        native: Its fields in the source.
    """
    for column in columns_of(set_name):
        if column.kind in kinds and column.comparable in IN_ONE_COLUMN:
            members = (member for member in column.members if member.set == set_name)
            if any(member.holds(native) for member in members):
                return PUBLISHED
    return OURS
