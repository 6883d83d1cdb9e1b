"""Labelled rows as examples, and the figures of a guard on held-out ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from streamward.evals.metrics import Counts
from streamward.train.mixture import WeightedSample
from streamward.train.operating_point import count_at
from streamward.train.scoring import Score

E = TypeVar("E")


class EncodedRows(NamedTuple, Generic[E]):
    """Rows that carry a label, and an example for each."""

    rows: list[WeightedSample]
    examples: list[E]


def encode_rows(rows: Iterable[WeightedSample], make: Callable[[WeightedSample], E | None]) -> EncodedRows[E]:
    """Make an example of each row; rows for which `make` returns None are left out."""
    pairs = [(row, example) for row in rows if (example := make(row)) is not None]
    return EncodedRows([row for row, _ in pairs], [example for _, example in pairs])


def side_figures(scores: Sequence[Score], threshold: float, *, rows: Sequence[WeightedSample]) -> dict[str, Any]:
    """Return the figures of one side at a threshold, over all rows and by file, as JSON values."""
    by_file: dict[str, list[Score]] = {}
    for score in scores:
        by_file.setdefault(rows[score.example].file, []).append(score)
    return {
        "all": _at(scores, threshold),
        "by_file": {file: _at(own, threshold) for file, own in sorted(by_file.items())},
    }


def figures(counts: Counts) -> dict[str, float]:
    """Return F1, and recall and false positive rate where there are rows for them, rounded to four digits."""
    found = {"f1": counts.f1}
    if counts.true_positives + counts.false_negatives:
        found["recall"] = counts.recall
    if counts.false_positives + counts.true_negatives:
        found["false_positive_rate"] = counts.false_positive_rate
    return {name: round(value, 4) for name, value in found.items()}


def _at(scores: Sequence[Score], threshold: float) -> dict[str, float]:
    return {"rows": float(len(scores)), **figures(count_at(scores, threshold))}
