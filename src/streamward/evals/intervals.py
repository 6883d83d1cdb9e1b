"""Bootstrap intervals of figures that follow from counts, and whether two guards differ on the same rows.

Rows fall into few cells (flagged or not, unsafe or not), so drawing rows with replacement is drawing cell counts from a
multinomial distribution: exact, and as fast for 30,000 rows as for 100.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamward.evals.metrics import Counts
from streamward.evals.report_model import Estimate, Point

RESAMPLES = 2000
_LOW, _HIGH = 2.5, 97.5
Floats = npt.NDArray[np.float64]


class Paired(NamedTuple):
    """Two guards on the same rows; differences are second minus first."""

    rows: int
    f1_change: Estimate | None
    recall_change: Estimate | None
    false_positive_rate_change: Estimate | None
    p_value: float
    """McNemar's exact test: the chance of so uneven a split of the rows on which just one guard is right."""


def estimate(value: float, draws: Floats) -> Estimate:
    """Return a figure with the percentile interval of its resampled values."""
    low, high = np.percentile(draws, [_LOW, _HIGH]).tolist()
    return Estimate(value=value, low=low, high=high)


def point(counts: Counts, *, controversial_flagged: float | None = None) -> Point:
    """Return the figures of some counts, each with its interval; None where there are no rows to tell."""
    cells = (counts.true_positives, counts.false_positives, counts.false_negatives, counts.true_negatives)
    has_unsafe = counts.true_positives + counts.false_negatives > 0
    has_safe = counts.false_positives + counts.true_negatives > 0
    tp, fp, fn, tn = _draw(cells)
    return Point(
        true_positives=counts.true_positives,
        false_positives=counts.false_positives,
        false_negatives=counts.false_negatives,
        true_negatives=counts.true_negatives,
        f1=estimate(counts.f1, _f1(tp, fp, fn)) if has_unsafe else None,
        precision=estimate(counts.precision, _share(tp, tp + fp)) if has_unsafe and has_safe else None,
        recall=_share_estimate(counts.true_positives, counts.false_negatives, _share(tp, tp + fn)),
        false_positive_rate=_share_estimate(counts.false_positives, counts.true_negatives, _share(fp, fp + tn)),
        controversial_flagged=controversial_flagged,
    )


def share(hits: int, total: int) -> Estimate | None:
    """Return a share of rows with its interval; None without a row."""
    drawn, _ = _draw((hits, total - hits))
    return _share_estimate(hits, total - hits, drawn / total) if total else None


def _share_estimate(hits: int, others: int, draws: Floats) -> Estimate | None:
    """Return a share; where all rows agree, resampling knows no doubt, and the exact bound (Clopper-Pearson) stands."""
    total = hits + others
    if not total:
        return None
    found = estimate(hits / total, draws)
    reach = (_LOW / 100) ** (1 / total)
    if not hits:
        return Estimate(value=0.0, low=0.0, high=1 - reach)
    return found if others else Estimate(value=1.0, low=reach, high=1.0)


def paired(first: Sequence[bool], second: Sequence[bool], unsafe: Sequence[bool]) -> Paired:
    """Compare two guards' flags on the same rows."""
    cells = np.zeros(8, dtype=np.int64)
    for a, b, truth in zip(first, second, unsafe, strict=True):
        cells[4 * truth + 2 * a + b] += 1
    draws = _draw(cells.tolist())
    exact = cells[:, None].astype(np.float64)
    unsafe_rows, safe_rows = int(cells[4:].sum()), int(cells[:4].sum())

    def change(figure: Callable[[Floats], Floats], rows: int) -> Estimate | None:
        return estimate(float(figure(exact)[0]), figure(draws)) if rows else None

    only_first = int(cells[1] + cells[6])  # right are safe rows not flagged and unsafe rows flagged
    only_second = int(cells[2] + cells[5])
    return Paired(
        rows=unsafe_rows + safe_rows,
        f1_change=change(_f1_change, unsafe_rows),
        recall_change=change(_recall_change, unsafe_rows),
        false_positive_rate_change=change(_fpr_change, safe_rows),
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p-value of so many rows on which one of two guards alone is right."""
    from scipy.stats import binomtest

    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def _draw(cells: Sequence[int]) -> Floats:
    """Return resampled cells [cell, resample]; the same for the same cells."""
    total = sum(cells)
    if not total:
        return np.zeros((len(cells), RESAMPLES))
    shares = np.asarray(cells, dtype=np.float64) / total
    rng = np.random.default_rng(0)
    return rng.multinomial(total, shares, size=RESAMPLES).T.astype(np.float64)


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _f1(tp: Floats, fp: Floats, fn: Floats) -> Floats:
    return _share(2 * tp, 2 * tp + fp + fn)


def _f1_change(cells: Floats) -> Floats:
    fp = (cells[2] + cells[3], cells[1] + cells[3])
    tp = (cells[6] + cells[7], cells[5] + cells[7])
    unsafe = cells[4:].sum(axis=0)
    return _f1(tp[1], fp[1], unsafe - tp[1]) - _f1(tp[0], fp[0], unsafe - tp[0])


def _recall_change(cells: Floats) -> Floats:
    return _share(cells[5] - cells[6], cells[4:].sum(axis=0))


def _fpr_change(cells: Floats) -> Floats:
    return _share(cells[1] - cells[2], cells[:4].sum(axis=0))
