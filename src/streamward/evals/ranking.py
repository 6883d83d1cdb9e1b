"""Ranking metrics of scores: AUROC, average precision, the best F1 and curves.

Not scikit-learn's functions, because each of some hundred bootstrap resamples would sort the rows again: here they are
sorted once and reweighted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamward.evals.intervals import Floats, estimate
from streamward.evals.report_model import CurvePoint, Ranking

_RESAMPLES = 300  # number of bootstrap draws; none sorts the rows again
_CURVE_POINTS = 60
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows in falling order of their score, rows of equal score in one group.

    Attributes:
        order: Indices of the rows.
        starts: Where each group begins in `order`.
        thresholds: Score of each group.
        unsafe: 1.0 for unsafe rows, in `order`.
    """

    order: Ints
    starts: Ints
    thresholds: Floats
    unsafe: Floats

    def cumulated(self, weights: Floats | None = None) -> tuple[Floats, Floats]:
        """Return true and false positives if all rows down to each group are flagged; rows may be weighted."""
        ordered = np.ones_like(self.unsafe) if weights is None else weights[self.order]
        positives = np.add.reduceat(ordered * self.unsafe, self.starts)
        negatives = np.add.reduceat(ordered * (1.0 - self.unsafe), self.starts)
        return positives.cumsum(), negatives.cumsum()


def rank(scores: Sequence[float], unsafe: Sequence[bool]) -> Ranked | None:
    """Order rows by score; None unless there are rows of both kinds."""
    if len(set(unsafe)) < 2:
        return None
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1]).astype(np.intp)
    labels = np.asarray(unsafe, dtype=np.float64)[order]
    return Ranked(order, starts, ordered[starts], labels)


def auroc(tp: Floats, fp: Floats) -> float:
    """Return the area under the ROC curve through cumulated counts; ties count half."""
    recall = np.concatenate([[0.0], tp / tp[-1]])
    false_positive_rate = np.concatenate([[0.0], fp / fp[-1]])
    return float(np.trapezoid(recall, false_positive_rate))


def average_precision(tp: Floats, fp: Floats) -> float:
    """Return the area under the precision-recall curve as a sum of steps, without interpolation."""
    gained = np.diff(np.concatenate([[0.0], tp])) / tp[-1]
    return float((gained * tp / np.maximum(tp + fp, 1e-12)).sum())


def best_f1(tp: Floats, fp: Floats) -> float:
    """Return the F1 at the best threshold."""
    return float((2 * tp / (tp + fp + tp[-1])).max())


def ranking(ranked: Ranked) -> Ranking:
    """Return both areas with their intervals."""
    exact = ranked.cumulated()
    rng = np.random.default_rng(0)
    num_rows = len(ranked.unsafe)
    draws = []
    for _ in range(_RESAMPLES):
        weights = np.bincount(rng.integers(num_rows, size=num_rows), minlength=num_rows).astype(np.float64)
        tp, fp = ranked.cumulated(weights)
        if tp[-1] and fp[-1]:  # a draw without unsafe or without safe rows says nothing
            draws.append((auroc(tp, fp), average_precision(tp, fp)))
    areas = np.asarray(draws or [(auroc(*exact), average_precision(*exact))])
    return Ranking(auroc=estimate(auroc(*exact), areas[:, 0]), auprc=estimate(average_precision(*exact), areas[:, 1]))


def curve(ranked: Ranked) -> tuple[CurvePoint, ...]:
    """Return recall against false stops at thresholds spread over the rows, at most some tens."""
    tp, fp = ranked.cumulated()
    chosen = np.unique(np.linspace(0, len(tp) - 1, _CURVE_POINTS).round().astype(int))
    return tuple(
        CurvePoint(
            threshold=round(float(ranked.thresholds[each]), 4),
            recall=round(float(tp[each] / tp[-1]), 4),
            false_stop_rate=round(float(fp[each] / fp[-1]), 4),
        )
        for each in chosen
    )
