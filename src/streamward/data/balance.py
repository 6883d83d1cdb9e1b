"""Thins out what there is too much of; the same seed keeps the same rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from streamward.data.fingerprints import fingerprint
from streamward.data.jsonl import Sample
from streamward.settings import Settings

Dimension = Literal["source", "language", "kind", "side", "prompt_label", "response_label", "category"]


class BalanceRule(Settings):
    """Limits every group of rows that agree in some dimensions.

    A row with two categories belongs to two groups, and stays as long as one of them has room.
    """

    by: tuple[Dimension, ...] = Field(min_length=1)
    only: Mapping[Dimension, str] = {}
    """Rows it is about, by their values; others stay. All by default."""
    max_rows: int | None = Field(default=None, gt=0)
    """Maximum number of rows of each group."""
    max_ratio: float | None = Field(default=None, gt=0)
    """Maximum size of a group relative to the smallest; groups below `min_rows` do not count as the smallest."""
    min_rows: int = Field(default=200, gt=0)
    targets: Mapping[str, int] = {}
    """Limits of single groups, which go before the others: values joined with `|`, e.g. `comment|Unsafe`."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a row that balancing and splitting use.

    Attributes:
        values: Groups it belongs to, by dimension.
        priority: Rows with a small one are kept first.
    """

    values: Mapping[Dimension, tuple[str, ...]]
    priority: int


def gather(sample: Sample, *, source: str, seed: int) -> Facts:
    """Collect the facts of a row."""
    side = "response" if sample.response_label is not None else "prompt"
    values: dict[Dimension, tuple[str, ...]] = {
        "source": (source,),
        "language": (sample.language or "unknown",),
        "kind": (sample.kind or "unknown",),
        "side": (side,),
        "prompt_label": (str(sample.prompt_label),),
        "response_label": (str(sample.response_label),),
        "category": tuple(category.value for category in sample.categories) or ("none",),
    }
    return Facts(values, fingerprint(f"{seed}\0{sample.prompt}\0{sample.response}"))


def balance(rows: Sequence[Facts], rules: Iterable[BalanceRule]) -> list[bool]:
    """Say of each row whether it stays; one rule after the other, each on what the last one left."""
    kept = [True] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: (rows[index].priority, index))
    for rule in rules:
        groups = {
            index: _groups(rows[index], rule.by) for index in order if kept[index] and _is_meant(rows[index], rule)
        }
        limits = _limits(Counter(group for names in groups.values() for group in names), rule)
        taken: Counter[str] = Counter()
        for index, names in groups.items():
            if any(taken[name] < limits[name] for name in names):
                taken.update(names)
            else:
                kept[index] = False
    return kept


def _is_meant(facts: Facts, rule: BalanceRule) -> bool:
    return all(value in facts.values[dimension] for dimension, value in rule.only.items())


def _groups(facts: Facts, by: Sequence[Dimension]) -> tuple[str, ...]:
    names = [""]
    for dimension in by:
        names = [f"{name}|{value}" for name in names for value in facts.values[dimension]]
    return tuple(name.removeprefix("|") for name in names)


def _limits(sizes: Mapping[str, int], rule: BalanceRule) -> dict[str, int]:
    smallest = min((size for size in sizes.values() if size >= rule.min_rows), default=max(sizes.values(), default=0))
    limits = {}
    for name, size in sizes.items():
        limit = size
        if rule.max_ratio is not None:
            limit = min(limit, int(max(smallest, rule.min_rows) * rule.max_ratio))
        if rule.max_rows is not None:
            limit = min(limit, rule.max_rows)
        limits[name] = min(size, rule.targets.get(name, limit))
    return limits
