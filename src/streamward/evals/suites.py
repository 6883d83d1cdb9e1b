"""Suites: which sets are judged, and how much of each."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from streamward.evals.perturbations import PERTURBATIONS, perturbed
from streamward.evals.predictions import LabelledRow
from streamward.evals.registry import columns_of
from streamward.evals.sets import EvalSet
from streamward.schema import RiskLevel, Side

QUICK_ROWS = {Side.PROMPT: 100, Side.RESPONSE: 60}
"""Rows of each set in `quick`: at most five minutes for the embedded guard on two cores."""
DIFFERENT_ROWS = 5000
"""Most rows in `published` of a set whose published column has other labels: it forms no column, so a sample serves."""
ROBUSTNESS_ROWS = 100
"""Rows of each set of prompts that are judged again under every perturbation."""


class Suite(StrEnum):
    """Suites that `--suite` names."""

    ALL = "all"
    PUBLISHED = "published"
    QUICK = "quick"
    ROBUSTNESS = "robustness"
    EVERYDAY = "everyday"
    CUES = "cues"
    LANGUAGES = "languages"


PACKAGED_SUITES = frozenset({Suite.EVERYDAY, Suite.CUES})
"""Suites that need no folder: the set of their name is part of the package."""
_KEPT: Mapping[Suite, Callable[[LabelledRow], bool]] = {
    Suite.EVERYDAY: lambda row: row.label is RiskLevel.SAFE,
    Suite.CUES: lambda row: row.label is not None and bool(row.slices.contrast_set and row.slices.cue),
    Suite.LANGUAGES: lambda row: row.label is not None,
}
"""Rows that a suite judges of every set."""


def is_published(set_name: str) -> bool:
    """Return whether a figure was published for rows of this set, or for more or other rows of its source."""
    return bool(columns_of(set_name))


def plan(
    sets: Sequence[EvalSet], suite: Suite, *, has_robustness: bool = False, max_rows: int | None = None
) -> list[EvalSet]:
    """Return what a suite judges of the sets there are, plain texts before perturbed ones.

    Args:
        sets: One for each side of each set.
        suite: Its name.
        has_robustness: Whether a fixed sample of the prompts is judged again under perturbations. Deltas are over the
            rows of the perturbed set: the plain one may hold more.
        max_rows: At most so many rows of each set, a fixed sample.
    """
    chosen = list(sets)
    if suite is Suite.PUBLISHED:
        chosen = [each.sample(_published_rows(each)) for each in sets if is_published(each.name)]
    if suite in _KEPT:
        chosen = [kept for each in sets if (kept := each.keep(_KEPT[suite])).rows]
    if suite is Suite.QUICK:
        chosen = [each.sample(QUICK_ROWS[each.side]) for each in chosen]
    if suite is Suite.ROBUSTNESS:
        chosen = [each.sample(ROBUSTNESS_ROWS) for each in chosen if each.side is Side.PROMPT]
    if max_rows is not None:
        sample = _sample_contrast_sets if suite is Suite.CUES else EvalSet.sample
        chosen = [sample(each, max_rows) for each in chosen]
    if suite is Suite.ROBUSTNESS or has_robustness:
        plain = [each.sample(ROBUSTNESS_ROWS) for each in chosen if each.side is Side.PROMPT]
        chosen += [perturbed(each, name) for each in plain for name in PERTURBATIONS]
    return chosen


def _sample_contrast_sets(each: EvalSet, most: int) -> EvalSet:
    """Return a fixed sample of whole contrast sets, of at most so many rows together but of at least one set."""
    sizes = Counter(row.slices.contrast_set for row in each.rows)
    chosen: set[str] = set()
    num_rows = 0
    for name in sorted(sizes, key=lambda name: hashlib.sha256(f"{each.name}|{name}".encode()).digest()):
        if chosen and num_rows + sizes[name] > most:
            break
        chosen.add(name)
        num_rows += sizes[name]
    kept = each.keep(lambda row: row.slices.contrast_set in chosen)
    is_whole = len(kept.rows) == len(each.rows)
    return kept if is_whole else replace(kept, sampled_from=each.sampled_from or len(each.rows))


def _published_rows(each: EvalSet) -> int:
    is_different = all(column.comparable == "different" for column in columns_of(each.name))
    return DIFFERENT_ROWS if is_different else len(each.rows)
