"""The sentences a report opens with: what its suite was run for."""

from collections.abc import Iterator, Sequence

from streamward.evals.figures import percent, with_interval
from streamward.evals.report_model import EverydayReport, FlaggedSlice, FlipReport, WorstLanguage
from streamward.schema import Side

_DONE = {Side.PROMPT: "flagged", Side.RESPONSE: "cut"}
_FIGURES = {"recall": "recall", "false_positive_rate": "false positives", "auroc": "AUROC"}


def headlines(
    everyday: Sequence[EverydayReport], flips: FlipReport | None, worst: Sequence[WorstLanguage]
) -> tuple[str, ...]:
    """Return the sentences of a run; none for a suite without them."""
    return (*_everyday(everyday), *([] if flips is None else _flips(flips)), *_worst(worst))


def _everyday(reports: Sequence[EverydayReport]) -> Iterator[str]:
    for each in reports:
        whole, done = each.whole, _DONE[each.side]
        yield f"{with_interval(whole.share)} % of {whole.rows:,} harmless {each.side}s are {done}."
    for each in reports:
        named = [
            f"{kind} {', '.join(_counts(one) for one in raised)}"
            for kind, slices in (("languages", each.languages), ("groups", each.groups))
            if (raised := [one for one in slices if one.is_raised])
        ]
        if named:
            yield f"{each.side.capitalize()}s {_DONE[each.side]} over twice as often as all: {'; '.join(named)}."
        else:
            yield f"No language or group has its {each.side}s {_DONE[each.side]} over twice as often as all."


def _counts(each: FlaggedSlice) -> str:
    return f"{each.name} ({each.flagged} of {each.rows})"


def _flips(report: FlipReport) -> Iterator[str]:
    whole = report.whole
    yield (
        f"The decision flips within {with_interval(whole.flip_rate)} % of {whole.contrast_sets:,} contrast sets, whose"
        f" rows differ in one surface cue only; {percent(whole.pair_rate)} % of the pairs of rows differ."
    )
    most = max(report.cues, key=lambda each: each.flip_rate.value)
    if most.flipped:
        yield (
            f"The cue that flips most is {most.name}: {most.flipped} of {most.contrast_sets} contrast sets"
            f" ({percent(most.flip_rate.value)} %)."
        )


def _worst(found: Sequence[WorstLanguage]) -> Iterator[str]:
    for side in Side:
        parts = [_worst_part(each) for each in found if each.side is side]
        if parts:
            yield f"Worst languages for {side}s, in percent: {', '.join(parts)}."


def _worst_part(each: WorstLanguage) -> str:
    among = f"of {each.languages} languages"
    if each.tied:
        degree = "high" if each.figure == "false_positive_rate" else "low"
        among = f"as {degree} in {', '.join(each.tied)}; {among}"
    return f"{_FIGURES[each.figure]} {with_interval(each.value)} in {each.language} ({among})"
