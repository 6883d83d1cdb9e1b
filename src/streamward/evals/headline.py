"""The figures an evaluation ends with."""

from collections.abc import Iterator

from streamward.evals.report_model import GuardReport
from streamward.schema import Side


def headline(report: GuardReport) -> str:
    """Return one line: F1 under the policy and false positives of each side, over sets without perturbations."""
    return "; ".join(_figures(report)) or "no figures: no row was judged"


def _figures(report: GuardReport) -> Iterator[str]:
    for side in Side:
        sets = [each for each in report.sets if each.side is side and each.perturbation is None]
        points = [each.points["policy"] for each in sets if each.points]
        f1s = [point.f1.value for point in points if point.f1 is not None]
        false = sum(point.false_positives for point in points)
        harmless = false + sum(point.true_negatives for point in points)
        told = [f"F1 {sum(f1s) / len(f1s):.3f} (mean of {len(f1s)} sets)"] if f1s else []
        if harmless:
            told.append(f"{false} of {harmless} harmless rows flagged ({100 * false / harmless:.1f} %)")
        if told:
            yield f"{side.value}s: {', '.join(told)}"
