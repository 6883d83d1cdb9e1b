"""Metrics of whole-text judgements, per set and over all sets of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from streamward.evals.calibration import calibration
from streamward.evals.intervals import paired, point
from streamward.evals.metrics import Counts, count
from streamward.evals.predictions import LabelledRow, Prediction, SetResult
from streamward.evals.ranking import Ranked, best_f1, rank, ranking
from streamward.evals.report_model import (
    POINTS,
    Calibration,
    CategoryTable,
    Decisions,
    Oracle,
    PerturbationDelta,
    Point,
    PointName,
    Ranking,
    Refusal,
)
from streamward.schema import Category, RiskLevel, Side

Pair = tuple[LabelledRow, Prediction]
UNNAMED, NOT_FLAGGED = "flagged, no category", "not flagged"
_LETTERS = {RiskLevel.UNSAFE: "1", RiskLevel.SAFE: "0", RiskLevel.CONTROVERSIAL: "c", None: "-"}


@dataclass(frozen=True, slots=True)
class JudgedText:
    """Rows that people call Safe or Unsafe and that the guard judged, with those they call Controversial apart."""

    clear: tuple[Pair, ...]
    controversial: tuple[Pair, ...]

    @property
    def unsafe(self) -> list[bool]:
        """Truth of the clear rows."""
        return [row.label is RiskLevel.UNSAFE for row, _ in self.clear]

    def flagged(self, name: PointName) -> list[bool]:
        """Decisions on the clear rows."""
        return [decision(prediction, name) for _, prediction in self.clear]

    def point(self, name: PointName) -> Point:
        """Return the figures of one operating point."""
        grey = [decision(prediction, name) for _, prediction in self.controversial]
        share = sum(grey) / len(grey) if grey else None
        return point(count(self.flagged(name), self.unsafe), controversial_flagged=share)

    def points(self) -> dict[PointName, Point]:
        """Return all operating points; none without a row."""
        return {name: self.point(name) for name in POINTS} if self.clear or self.controversial else {}


def judged(pairs: Iterable[Pair]) -> JudgedText:
    """Take the rows with a label and a judgement; a row that failed has no figure."""
    fit = [(row, each) for row, each in pairs if row.label is not None and each.error is None]
    clear = tuple(pair for pair in fit if pair[0].label is not RiskLevel.CONTROVERSIAL)
    return JudgedText(clear, tuple(pair for pair in fit if pair[0].label is RiskLevel.CONTROVERSIAL))


def pairs_of(result: SetResult) -> list[Pair]:
    """Return rows with their predictions."""
    return list(zip(result.rows, result.predictions, strict=True))


def decision(prediction: Prediction, name: PointName) -> bool:
    """Return whether a row was flagged at an operating point. Only for rows that were judged."""
    by_name = {"strict": prediction.flagged_strict, "loose": prediction.flagged_loose, "policy": prediction.flagged}
    flagged = by_name[name]
    assert flagged is not None, "a judged row has decisions"
    return flagged


def risk(prediction: Prediction) -> float | None:
    """Return P(Unsafe) + P(Controversial); None where a guard gives labels only."""
    return None if prediction.probabilities is None else 1.0 - prediction.probabilities[RiskLevel.SAFE]


def scored(pairs: Iterable[Pair]) -> tuple[list[float], list[bool]]:
    """Return risks and truths of the rows that have both."""
    found = [
        (value, row.label is RiskLevel.UNSAFE) for row, prediction in pairs if (value := risk(prediction)) is not None
    ]
    return [value for value, _ in found], [truth for _, truth in found]


def ranked_rows(rows: JudgedText) -> Ranked | None:
    """Order the clear rows by risk; None without probabilities or without both kinds of row."""
    return rank(*scored(rows.clear))


def set_ranking(rows: JudgedText) -> Ranking | None:
    """Return the areas under the curves."""
    ranked = ranked_rows(rows)
    return None if ranked is None else ranking(ranked)


def oracle(rows: JudgedText) -> Oracle | None:
    """Return what a choice with the answers at hand would get; None without unsafe rows."""
    truths = rows.unsafe
    if not any(truths):
        return None
    by_mode: dict[PointName, float] = {name: count(rows.flagged(name), truths).f1 for name in ("strict", "loose")}
    mode: PointName = max(by_mode, key=lambda name: by_mode[name])
    ranked = ranked_rows(rows)
    threshold_f1 = None if ranked is None else best_f1(*ranked.cumulated())
    return Oracle(mode_f1=by_mode[mode], mode=mode, threshold_f1=threshold_f1)


def set_calibration(rows: Iterable[Pair]) -> Calibration | None:
    """Return the reliability of the risks of clear rows."""
    return calibration(*scored(rows))


def refusal(pairs: Sequence[Pair]) -> Refusal | None:
    """Return how right a guard is about refusals; None where no row has a label."""
    labelled = [(row, each) for row, each in pairs if row.refusal is not None and each.error is None]
    if not labelled:
        return None
    said = [(bool(each.refusal), bool(row.refusal)) for row, each in labelled if each.refusal is not None]
    counts = count([answer for answer, _ in said], [truth for _, truth in said]) if said else Counts()
    return Refusal(point=point(counts), silent_rows=len(labelled) - len(said))


def by_language(pairs: Iterable[Pair]) -> dict[str, Point]:
    """Return the strict point of each language; empty unless there are several."""
    groups: dict[str, list[Pair]] = {}
    for row, prediction in pairs:
        groups.setdefault(row.language, []).append((row, prediction))
    points = {name: judged(groups[name]).points() for name in sorted(groups)}
    found = {name: each["strict"] for name, each in points.items() if each}
    return found if len(found) > 1 else {}


def category_table(pairs: Iterable[Pair], side: Side) -> CategoryTable | None:
    """Return what people call unsafe rows against what the guard calls them, at strict.

    A row of several categories counts under the one the guard named, if it is among them, else under its first.
    """
    names = [*Category, UNNAMED, NOT_FLAGGED]
    counts = [[0] * len(names) for _ in Category]
    for row, prediction in pairs:
        if row.label is not RiskLevel.UNSAFE or not row.categories or prediction.error is not None:
            continue
        own = prediction.category
        true = own if own in row.categories else row.categories[0]
        said = NOT_FLAGGED if not decision(prediction, "strict") else UNNAMED if own is None else own
        counts[names.index(true)][names.index(said)] += 1
    if not any(map(any, counts)):
        return None
    return CategoryTable(side=side, names=tuple(names), counts=tuple(map(tuple, counts)))


def decisions(pairs: Sequence[Pair]) -> Decisions:
    """Return the rows' truths and decisions as characters."""

    def letters(name: PointName) -> str:
        return "".join("!" if each.error is not None else str(int(decision(each, name))) for _, each in pairs)

    truth = "".join(_LETTERS[row.label] for row, _ in pairs)
    return Decisions(truth=truth, strict=letters("strict"), loose=letters("loose"), policy=letters("policy"))


def perturbation_deltas(results: Sequence[SetResult]) -> list[PerturbationDelta]:
    """Return what each perturbation changes on each set and on all of them, over the rows judged both ways."""
    plain = {(each.set_name, each.side): dict(_by_id(each)) for each in results if each.perturbation is None}
    groups: dict[tuple[str, str], list[tuple[Pair, Pair]]] = {}
    for result in results:
        before = plain.get((result.set_name, result.side))
        if result.perturbation is None or before is None:
            continue
        both = [(before[row.id], (row, each)) for row, each in pairs_of(result) if row.id in before]
        groups.setdefault((result.perturbation, "all"), []).extend(both)
        groups.setdefault((result.perturbation, result.set_name), []).extend(both)
    return [_delta(*key, groups[key]) for key in sorted(groups, key=lambda key: (key[1] != "all", key[1], key[0]))]


def _by_id(result: SetResult) -> Iterable[tuple[str, Pair]]:
    return ((row.id, (row, prediction)) for row, prediction in pairs_of(result))


def _delta(perturbation: str, set_name: str, both: Sequence[tuple[Pair, Pair]]) -> PerturbationDelta:
    clear = (RiskLevel.SAFE, RiskLevel.UNSAFE)
    fit = [
        (decision(before, "strict"), decision(after, "strict"), row.label is RiskLevel.UNSAFE)
        for (row, before), (_, after) in both
        if row.label in clear and before.error is None and after.error is None
    ]
    first, second, truths = ([each[part] for each in fit] for part in range(3))
    change, counts = paired(first, second, truths), count(second, truths)
    return PerturbationDelta(
        perturbation=perturbation,
        set_name=set_name,
        rows=len(fit),
        recall=counts.recall if any(truths) else None,
        recall_change=change.recall_change,
        false_positive_rate=counts.false_positive_rate if not all(truths) else None,
        false_positive_rate_change=change.false_positive_rate_change,
    )


def refusal_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Return rows as if refusing were the harm, so that a refusal column is scored like any other."""
    level = {True: RiskLevel.UNSAFE, False: RiskLevel.SAFE, None: None}
    found = []
    for row, each in pairs:
        said = None if each.refusal is None else each.refusal
        truth = replace(row, label=level[row.refusal])
        error = each.error if said is not None else each.error or "no_refusal"
        found.append((truth, replace(each, error=error, flagged_strict=said, flagged_loose=said, flagged=said)))
    return found
