"""Agreement of judges beyond chance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypeVar

Label = TypeVar("Label")


def pairwise(answers: Mapping[str, Sequence[Label | None]]) -> dict[str, float]:
    """Return the share of rows on which two judges agree, of those that both answered, for every pair `A / B`."""
    shares: dict[str, float] = {}
    for (one, first), (other, second) in combinations(answers.items(), 2):
        both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
        if both:
            shares[f"{one} / {other}"] = sum(a == b for a, b in both) / len(both)
    return shares


def fleiss_kappa(rows: Sequence[Sequence[Label]]) -> float | None:
    """Return Fleiss' kappa (Psychological Bulletin 76(5), 1971): 1 is full agreement, 0 what chance gives.

    Args:
        rows: The judges' labels of each row, as many of each row as of any other.

    Returns:
        None where it has no value: no rows, fewer than two judges, or all answers the same label.
    """
    if not rows or len(rows[0]) < 2:
        return None
    num_judges = len(rows[0])
    total: Counter[Label] = Counter()
    observed = 0.0
    for labels in rows:
        counts = Counter(labels)
        total.update(counts)
        observed += (sum(number**2 for number in counts.values()) - num_judges) / (num_judges * (num_judges - 1))
    observed /= len(rows)
    expected = sum((number / (len(rows) * num_judges)) ** 2 for number in total.values())
    return None if expected == 1 else (observed - expected) / (1 - expected)
