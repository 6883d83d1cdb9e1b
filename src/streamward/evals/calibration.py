"""Calibration of probabilities: reliability bins and expected calibration error."""

from collections.abc import Sequence

from streamward.evals.report_model import Bin, Calibration

_BINS = 10


def calibration(risks: Sequence[float], unsafe: Sequence[bool]) -> Calibration | None:
    """Return the reliability diagram and the expected calibration error; None for no rows.

    Args:
        risks: Between 0 and 1; bins are of equal width, and 1.0 belongs to the last.
        unsafe: Whether the row is.
    """
    if not risks:
        return None
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(_BINS)]
    for risk, truth in zip(risks, unsafe, strict=True):
        groups[min(_BINS - 1, int(risk * _BINS))].append((risk, truth))
    bins = tuple(
        Bin(
            low=index / _BINS,
            high=(index + 1) / _BINS,
            rows=len(group),
            mean_risk=sum(risk for risk, _ in group) / len(group),
            unsafe_share=sum(truth for _, truth in group) / len(group),
        )
        for index, group in enumerate(groups)
        if group
    )
    ece = sum(each.rows * abs(each.mean_risk - each.unsafe_share) for each in bins) / len(risks)
    return Calibration(rows=len(risks), ece=ece, bins=bins)
