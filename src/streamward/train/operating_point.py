"""Chooses a guard's operating point on held-out rows."""

# Shapes: N rows; C candidate thresholds.

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from streamward.evals.metrics import Counts, count
from streamward.model.guard_config import OperatingPoint
from streamward.schema import RiskLevel, Side
from streamward.train.scoring import Score

_MAX_THRESHOLDS = 500
Aim = Literal["f1", "recall"]


def operating_point(
    scores: Sequence[Score],
    *,
    ordinary: Collection[int],
    max_false_positive_rate: float,
    max_safe_rate: float = 1.0,
) -> OperatingPoint:
    """Choose one side's thresholds: the best F1 that stops no more harmless text than allowed.

    `controversial` separates Safe from the rest; `unsafe`, never below it, separates Unsafe from the rest.

    Args:
        scores: Scores of one side.
        ordinary: Rows of ordinary traffic among them; all of them are safe.
        max_false_positive_rate: Share of the ordinary rows that may be flagged.
        max_safe_rate: Share of all safe rows that may be flagged.
    """
    safe_N = torch.tensor([score.level is RiskLevel.SAFE for score in scores])
    ordinary_N = torch.tensor([score.example in ordinary for score in scores])
    unsafe_N = torch.tensor([score.level is RiskLevel.UNSAFE for score in scores])
    caps = [(ordinary_N, max_false_positive_rate), (safe_N, max_safe_rate)]
    risky = best_threshold(torch.tensor([score.risky for score in scores]), ~safe_N, caps)
    unsafe = best_threshold(torch.tensor([score.unsafe for score in scores]), unsafe_N)
    return OperatingPoint(unsafe=max(unsafe, risky), controversial=risky)


def best_threshold(
    values_N: Tensor,
    is_positive_N: Tensor,
    caps: Sequence[tuple[Tensor, float]] = (),
    *,
    aim: Aim = "f1",
) -> float:
    """Return the threshold with the best F1, or the best recall, among those that keep every cap; 1 if none does.

    Thresholds lie half-way between two values that occur: rows to come are no nearer to one than to the other.

    Args:
        values_N: How risky each row looks; it is flagged at or over the threshold.
        is_positive_N: Which should be.
        caps: Rows, and the share of them that may be flagged.
        aim: Recall takes the lowest threshold that is allowed.
    """
    found = values_N.unique()
    thresholds_C = torch.cat((found[:1], (found[1:] + found[:-1]) / 2))
    if len(thresholds_C) > _MAX_THRESHOLDS:
        thresholds_C = thresholds_C[torch.linspace(0, len(thresholds_C) - 1, _MAX_THRESHOLDS).long()]
    thresholds_C = torch.cat((thresholds_C, ((found[-1:] + 1) / 2)))  # the last flags no row at all
    flagged_CN = values_N[None] >= thresholds_C[:, None]
    is_allowed_C = torch.ones(len(thresholds_C), dtype=torch.bool)
    for rows_N, share in caps:
        if bool(rows_N.any()):
            is_allowed_C &= flagged_CN[:, rows_N].float().mean(dim=1) <= share
    if not bool(is_allowed_C.any()):
        return 1.0
    hits_C = (flagged_CN & is_positive_N).sum(dim=1)
    f1_C = 2 * hits_C / (flagged_CN.sum(dim=1) + is_positive_N.sum()).clamp(min=1)
    merit_C = f1_C if aim == "f1" else -thresholds_C
    return float(thresholds_C[int(torch.where(is_allowed_C, merit_C, -2.0).argmax())])


def count_at(scores: Sequence[Score], threshold: float) -> Counts:
    """Compare the rows at or over a threshold with those that are not safe."""
    truth = [score.level is not RiskLevel.SAFE for score in scores]
    return count([score.risky >= threshold for score in scores], truth)


def by_side(scores: Sequence[Score], side: Side) -> list[Score]:
    """Return the scores of one side."""
    return [score for score in scores if score.side is side]
