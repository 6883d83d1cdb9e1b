"""Dependence of decisions on surface cues: contrast sets, whose rows differ in one cue and have the same label.

A contrast set flips where its rows do not all get the same decision. One whose unsafe rows are all missed does not
flip; recall tells.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streamward.evals.intervals import share
from streamward.evals.predictions import SetResult
from streamward.evals.report_model import CueVariant, FlipReport, FlipSlice
from streamward.evals.whole_text import Pair, decision, pairs_of
from streamward.schema import RiskLevel, Side

SEVERAL_LANGUAGES = "several"
"""Language of a contrast set whose rows are translations of each other."""


@dataclass(frozen=True, slots=True)
class ContrastSet:
    """Rows of one side and one label that differ in one cue, with the strict decision on each.

    Attributes:
        cue: The kind of cue in which they differ.
        side: Which side was judged.
        label: Their common label.
        language: Their language, or `SEVERAL_LANGUAGES`.
        variants: The cue of each row.
        flagged: The decision on each row.
    """

    cue: str
    side: Side
    label: RiskLevel
    language: str
    variants: tuple[str, ...]
    flagged: tuple[bool, ...]

    @property
    def is_flipped(self) -> bool:
        """True if decisions differ."""
        return len(set(self.flagged)) > 1

    @property
    def num_pairs(self) -> int:
        """Pairs of rows."""
        return len(self.flagged) * (len(self.flagged) - 1) // 2

    @property
    def num_differing_pairs(self) -> int:
        """Pairs of rows whose decisions differ."""
        return sum(self.flagged) * (len(self.flagged) - sum(self.flagged))


def contrast_sets(results: Sequence[SetResult]) -> list[ContrastSet]:
    """Return the contrast sets of which at least two rows were judged; rows of other labels never share one."""
    found: dict[tuple[str, Side, str, RiskLevel], list[Pair]] = {}
    for result in results:
        for row, prediction in pairs_of(result):
            if row.slices.contrast_set and row.slices.cue and row.label is not None and prediction.error is None:
                key = (result.set_name, result.side, row.slices.contrast_set, row.label)
                found.setdefault(key, []).append((row, prediction))
    return [_contrast_set(key[1], key[3], pairs) for key, pairs in found.items() if len(pairs) > 1]


def _contrast_set(side: Side, label: RiskLevel, pairs: Sequence[Pair]) -> ContrastSet:
    languages = {row.language for row, _ in pairs}
    return ContrastSet(
        cue=pairs[0][0].slices.cue,
        side=side,
        label=label,
        language=languages.pop() if len(languages) == 1 else SEVERAL_LANGUAGES,
        variants=tuple(row.slices.variant for row, _ in pairs),
        flagged=tuple(decision(prediction, "strict") for _, prediction in pairs),
    )


def flip_report(results: Sequence[SetResult]) -> FlipReport | None:
    """Return how often decisions flip with a cue; None without a contrast set."""
    found = contrast_sets(results)
    if not found:
        return None
    return FlipReport(
        whole=_slice("all", found),
        cues=_slices(found, lambda each: each.cue),
        sides=_slices(found, lambda each: each.side.value),
        labels=_slices(found, lambda each: each.label.value),
        languages=_slices(found, lambda each: each.language),
        variants=_variants(found),
    )


def _slices(found: Sequence[ContrastSet], name_of: Callable[[ContrastSet], str]) -> tuple[FlipSlice, ...]:
    parts: dict[str, list[ContrastSet]] = {}
    for each in found:
        parts.setdefault(name_of(each), []).append(each)
    return tuple(_slice(name, parts[name]) for name in sorted(parts))


def _slice(name: str, found: Sequence[ContrastSet]) -> FlipSlice:
    flipped = sum(each.is_flipped for each in found)
    flip_rate = share(flipped, len(found))
    assert flip_rate is not None, "a slice has contrast sets"
    return FlipSlice(
        name=name,
        contrast_sets=len(found),
        flipped=flipped,
        flip_rate=flip_rate,
        pairs=sum(each.num_pairs for each in found),
        differing_pairs=sum(each.num_differing_pairs for each in found),
    )


def _variants(found: Sequence[ContrastSet]) -> tuple[CueVariant, ...]:
    flags: dict[tuple[str, str], Mapping[RiskLevel, list[bool]]] = {}
    for each in found:
        for variant, flagged in zip(each.variants, each.flagged, strict=True):
            by_label = flags.setdefault((each.cue, variant), {level: [] for level in RiskLevel})
            by_label[each.label].append(flagged)
    return tuple(
        CueVariant(
            cue=cue,
            variant=variant,
            safe_rows=len(by_label[RiskLevel.SAFE]),
            flagged=sum(by_label[RiskLevel.SAFE]),
            unsafe_rows=len(by_label[RiskLevel.UNSAFE]),
            missed=by_label[RiskLevel.UNSAFE].count(False),
        )
        for (cue, variant), by_label in sorted(flags.items())
    )
