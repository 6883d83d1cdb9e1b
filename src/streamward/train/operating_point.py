"""Chooses a guard's operating point on held-back rows."""

from collections.abc import Collection, Sequence

from streamward.evals.metrics import Counts, count
from streamward.model.config import OperatingPoint
from streamward.schema import RiskLevel, Side
from streamward.train.scoring import Score

_STEPS = 200


def operating_point(
    scores: Sequence[Score],
    *,
    ordinary: Collection[int],
    max_false_positive_rate: float,
    max_safe_rate: float = 1.0,
) -> OperatingPoint:
    """Choose one side's lines: the best F1 that stops no more harmless text than allowed.

    `controversial` separates Safe from the rest; `unsafe`, never below it, separates Unsafe from the rest.

    Args:
        scores: Of one side.
        ordinary: Rows of ordinary traffic among them; all of them are safe.
        max_false_positive_rate: Share of the ordinary rows that may be flagged.
        max_safe_rate: Share of all safe rows that may be flagged.
    """
    safe = {score.example for score in scores if score.level is RiskLevel.SAFE}
    lines = [step / _STEPS for step in range(1, _STEPS)]
    kept = [
        line
        for line in lines
        if _flagged_share(scores, ordinary, line) <= max_false_positive_rate
        and _flagged_share(scores, safe, line) <= max_safe_rate
    ]
    risky = max(kept or lines[-1:], key=lambda line: count_at(scores, line).f1)
    above = [line for line in lines if line >= risky]
    truth = [score.level is RiskLevel.UNSAFE for score in scores]
    unsafe = max(above, key=lambda line: count([score.unsafe >= line for score in scores], truth).f1)
    return OperatingPoint(unsafe=unsafe, controversial=risky)


def count_at(scores: Sequence[Score], line: float) -> Counts:
    """Compare the rows at or over a line with those that are not safe."""
    truth = [score.level is not RiskLevel.SAFE for score in scores]
    return count([score.risky >= line for score in scores], truth)


def by_side(scores: Sequence[Score], side: Side) -> list[Score]:
    """Return the scores of one side."""
    return [score for score in scores if score.side is side]


def _flagged_share(scores: Sequence[Score], rows: Collection[int], line: float) -> float:
    flagged = [score.risky >= line for score in scores if score.example in rows]
    return sum(flagged) / len(flagged) if flagged else 0.0
