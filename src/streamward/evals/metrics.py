"""Precision, recall, F1 and false-positive rate of binary decisions."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by what was said and what is true; positive means unsafe."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_negatives: int = 0

    @property
    def precision(self) -> float:
        """Share of flagged rows that are unsafe; 0 if none was flagged."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of unsafe rows that were flagged; 0 if there are none."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def false_positive_rate(self) -> float:
        """Share of safe rows that were flagged; 0 if there are none."""
        return _ratio(self.false_positives, self.false_positives + self.true_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall on the unsafe class; 0 if neither is positive."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


def count(flagged: Sequence[bool], unsafe: Sequence[bool]) -> Counts:
    """Compare judgements with truths of the same rows."""
    pairs = list(zip(flagged, unsafe, strict=True))
    return Counts(
        true_positives=pairs.count((True, True)),
        false_positives=pairs.count((True, False)),
        false_negatives=pairs.count((False, True)),
        true_negatives=pairs.count((False, False)),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
