"""False-positive rates on everyday text, by language, group and identity."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from streamward.evals.intervals import share
from streamward.evals.predictions import LabelledRow
from streamward.evals.report_model import EverydayReport, FlaggedSlice
from streamward.evals.whole_text import Pair, decision
from streamward.schema import RiskLevel, Side

RAISED = 2.0
"""A part of the rows is named where its share flagged is over so many times that of all rows."""
MIN_IDENTITY_ROWS = 5
"""Identities with fewer rows stand in one line together."""
OTHERS = "others"


def everyday_reports(pairs: Mapping[Side, Sequence[Pair]]) -> tuple[EverydayReport, ...]:
    """Return the shares flagged of the rows that people call Safe, for each side that was judged."""
    reports = []
    for side, found in pairs.items():
        safe = [(row, each) for row, each in found if row.label is RiskLevel.SAFE and each.error is None]
        if not safe:
            continue
        whole = _slice("all", safe)
        reports.append(
            EverydayReport(
                side=side,
                whole=whole,
                languages=_slices(safe, whole, lambda row: row.language),
                groups=_slices(safe, whole, lambda row: row.slices.group),
                identities=_slices(safe, whole, _identity_of(safe)),
            )
        )
    return tuple(reports)


def _identity_of(pairs: Sequence[Pair]) -> Callable[[LabelledRow], str]:
    counts = Counter(row.slices.identity for row, _ in pairs)

    def name_of(row: LabelledRow) -> str:
        identity = row.slices.identity
        return OTHERS if identity and counts[identity] < MIN_IDENTITY_ROWS else identity

    return name_of


def _slices(
    pairs: Sequence[Pair], whole: FlaggedSlice, name_of: Callable[[LabelledRow], str]
) -> tuple[FlaggedSlice, ...]:
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        if name := name_of(pair[0]):
            parts.setdefault(name, []).append(pair)
    return tuple(_slice(name, parts[name], most=RAISED * whole.share.value) for name in sorted(parts))


def _slice(name: str, pairs: Sequence[Pair], *, most: float = 1.0) -> FlaggedSlice:
    flagged = sum(decision(prediction, "strict") for _, prediction in pairs)
    estimate = share(flagged, len(pairs))
    assert estimate is not None, "a slice has rows"
    return FlaggedSlice(name=name, rows=len(pairs), flagged=flagged, share=estimate, is_raised=estimate.value > most)
