"""Operating points as offsets of the risk logits, so that the most probable level is the level.

A token is flagged where max(z_Unsafe + o_Unsafe, z_Controversial + o_Controversial) >= z_Safe, and Unsafe where its
logit is the largest. Both rates follow from two numbers: `o_Controversial`, which determines how much is flagged, and
the difference of the two, which determines how much of that is Unsafe.
"""

# Shapes: N rows; n tokens of one row; R risk levels.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from streamward.evals.metrics import Counts, count
from streamward.model.guard_config import SideLabels
from streamward.schema import RiskLevel
from streamward.train.operating_point import Aim, best_threshold
from streamward.train.scoring import RowLogits, held_peak

_DIFFERENCES = tuple(step / 4 for step in range(-24, 25))  # o_Unsafe - o_Controversial that are tried


class Caps(NamedTuple):
    """Rows, and the share of them that may be flagged."""

    rows_N: Tensor
    share: float


@dataclass(frozen=True, slots=True)
class ModeTarget:
    """The rates for which one mode, strict or loose, is calibrated.

    Attributes:
        positive_N: Rows that should be flagged.
        caps: How many others may be.
        aim: What is maximised within the caps.
    """

    positive_N: Tensor
    caps: Sequence[Caps]
    aim: Aim


class Calibrated(NamedTuple):
    """Offsets of one side, and what they flag.

    Attributes:
        offsets: In the order of the risk logits; Safe has 0.
        strict: Rows with a level other than Safe.
        loose: Rows with the level Unsafe.
    """

    offsets: tuple[float, ...]
    strict: Counts
    loose: Counts
    strict_N: Tensor


def find_offsets(
    rows: Sequence[RowLogits], labels: SideLabels, *, run: int, strict: ModeTarget, loose: ModeTarget
) -> Calibrated | None:
    """Return the best offsets that keep the caps of both modes; None if none does.

    Args:
        rows: Risk logits of every judged token of each row.
        labels: Order of the logits.
        run: Successive tokens that must hold a level before it counts.
        strict: Controversial counts as unsafe.
        loose: Controversial counts as safe.
    """
    margins = [_margins(row.logits_nR, labels) for row in rows]
    best: tuple[float, Calibrated] | None = None
    for difference in _DIFFERENCES:
        risk_N = _peaks([torch.maximum(own.unsafe_n + difference, own.controversial_n) for own in margins], run=run)
        threshold = best_threshold(risk_N.sigmoid(), strict.positive_N, strict.caps, aim=strict.aim)
        if not 0 < threshold < 1:
            continue
        controversial = -float(torch.tensor(threshold, dtype=torch.float64).logit())
        unsafe = controversial + difference
        unsafe_N = _peaks([_unsafe_margin(own, unsafe, controversial) for own in margins], run=run)
        flagged_N = unsafe_N >= 0
        if any(
            bool(cap.rows_N.any()) and float(flagged_N[cap.rows_N].float().mean()) > cap.share for cap in loose.caps
        ):
            continue
        found = Calibrated(
            _in_order(labels, unsafe=unsafe, controversial=controversial),
            count((risk_N + controversial >= 0).tolist(), strict.positive_N.tolist()),
            count(flagged_N.tolist(), loose.positive_N.tolist()),
            risk_N + controversial >= 0,
        )
        merit = _merit(found.strict, strict.aim) + _merit(found.loose, loose.aim)
        if best is None or merit > best[0]:
            best = merit, found
    return None if best is None else best[1]


class _Margins(NamedTuple):
    """Differences between two logits of each token and that of Safe."""

    unsafe_n: Tensor
    controversial_n: Tensor


def _margins(logits_nR: Tensor, labels: SideLabels) -> _Margins:
    safe_n = logits_nR[:, labels.risk_levels.index(RiskLevel.SAFE)]
    unsafe_n = logits_nR[:, labels.risk_levels.index(RiskLevel.UNSAFE)]
    if RiskLevel.CONTROVERSIAL not in labels.risk_levels:
        return _Margins(unsafe_n - safe_n, torch.full_like(safe_n, float("-inf")))
    return _Margins(unsafe_n - safe_n, logits_nR[:, labels.risk_levels.index(RiskLevel.CONTROVERSIAL)] - safe_n)


def _unsafe_margin(own: _Margins, unsafe: float, controversial: float) -> Tensor:
    return own.unsafe_n + unsafe - (own.controversial_n + controversial).clamp(min=0)


def _peaks(margins_n: Sequence[Tensor], *, run: int) -> Tensor:
    return torch.tensor([held_peak(own_n, run=run) for own_n in margins_n])


def _in_order(labels: SideLabels, *, unsafe: float, controversial: float) -> tuple[float, ...]:
    by_level = {RiskLevel.SAFE: 0.0, RiskLevel.UNSAFE: unsafe, RiskLevel.CONTROVERSIAL: controversial}
    return tuple(round(by_level[level], 4) for level in labels.risk_levels)


def _merit(counts: Counts, aim: Aim) -> float:
    return counts.f1 if aim == "f1" else counts.recall
