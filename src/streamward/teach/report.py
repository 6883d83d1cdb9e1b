"""Report on how well a rule was learnt, and on what would help."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.rules.calibration import RuleCalibration, ScorePair
from streamward.rules.features import PooledText, matter_rows
from streamward.rules.probe import Floats
from streamward.rules.rule import RuleExample
from streamward.schema import Side

MIN_AUC = 0.6
"""Area under the ROC curve on held-out examples below which a rule counts as not learnt; 0.5 is guessing."""
MIN_RECALL = 0.25
"""Recall on held-out examples below which a rule counts as not learnt."""
_FEW = 20
_MOST_CONFLICTS = 3
_CONFUSED = 0.1
_MAX_CHARS = 70
_EARLY_TOKENS = 1
_SOON_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Conflict:
    """An example and a counter-example that the guard can hardly tell apart.

    Attributes:
        example: Index among the examples.
        counter_example: Index among the counter-examples.
        similarity: Cosine of their averaged hidden states.
    """

    example: int
    counter_example: int
    similarity: float


@dataclass(frozen=True, slots=True)
class LessonReport:
    """Quality of one learnt rule, by cross-validation: every example is judged by heads taught without it.

    Attributes:
        rule_id: The rule.
        num_examples: Examples.
        num_counter_examples: Counter-examples.
        recall: Share of the examples at which the rule fires.
        false_alarms: Share of the counter-examples at which it fires.
        f1: F1 of both.
        auc: Area under the ROC curve of the head that tells them apart.
        ordinary: Ordinary texts at which it fires, and how many there are.
        in_time: Share of the responses found to break the rule from a known place on that are found from one token
            before up to twelve after that place; None if there are none.
        early: Likewise, share found before.
        others: Share of the examples and counter-examples of other rules at which it fires.
        conflicts: Examples that fight each other.
        missed: Indices of the examples that are not found.
        seconds: What teaching it took.
        examples: The texts, for the words of the report.
        side_recall: Recall by side, where there are examples of both.
    """

    rule_id: str
    num_examples: int
    num_counter_examples: int
    recall: float
    false_alarms: float
    f1: float
    auc: float
    ordinary: tuple[int, int]
    in_time: float | None
    early: float | None
    others: Mapping[str, float]
    conflicts: tuple[Conflict, ...]
    missed: tuple[int, ...]
    seconds: float
    examples: tuple[RuleExample, ...]
    side_recall: Mapping[Side, float]

    @property
    def is_learnt(self) -> bool:
        """True if the rule may be armed without being forced."""
        return _is_learnt(self.auc, self.recall)

    def lines(self) -> Iterator[str]:
        """Yield the report in words, the examples it speaks of among them."""
        verdict = "learnt" if self.is_learnt else "NOT LEARNT"
        yield f"{self.rule_id}: {verdict} ({self.seconds:.1f} s)"
        yield (
            f"  found {self.recall:.0%} of {self.num_examples} examples, fired at {self.false_alarms:.0%} of"
            f" {self.num_counter_examples} counter-examples (F1 {self.f1:.2f}, AUC {self.auc:.2f}, cross-validated)"
        )
        flagged, total = self.ordinary
        yield f"  fired at {flagged} of {total} ordinary texts"
        if self.in_time is not None and self.early is not None:
            yield f"  in streams: {self.in_time:.0%} of what it found within 12 tokens, {self.early:.0%} too early"
        for rule_id, share in self.others.items():
            if share >= _CONFUSED:
                yield f"  also fires at {share:.0%} of the texts of {rule_id}"
        for conflict in self.conflicts:
            counter = self.examples[self.num_examples + conflict.counter_example]
            yield f"  these two fight each other (similarity {conflict.similarity:.2f}):"
            yield f"    breaks the rule: {_short(self.examples[conflict.example])}"
            yield f"    allowed:         {_short(counter)}"
        for advice in self._advice():
            yield f"  {advice}"

    def _advice(self) -> Iterator[str]:
        if min(self.num_examples, self.num_counter_examples) < _FEW:
            yield "more examples would help most: 20 to 40 of each kind, about different things"
        for side, recall in self.side_recall.items():
            if recall < self.recall - 0.15:
                yield f"more examples of this kind would help: {side}s (it finds {recall:.0%} of them)"
        if self.missed and self.recall < 0.8:
            yield f"more examples like this one would help: {_short(self.examples[self.missed[0]])}"
        if self.false_alarms > 0.25:
            yield "more counter-examples would help: allowed texts in the words of a violation"
        if not self.is_learnt:
            yield "the guard's hidden states do not tell these texts apart; the rule is not armed without --force"


def report_rule(
    rule_id: str,
    examples: Sequence[RuleExample],
    texts: Sequence[PooledText],
    held_out: Sequence[ScorePair],
    calibration: RuleCalibration,
    *,
    ordinary: tuple[int, int],
    others: Mapping[str, float],
    seconds: float,
) -> LessonReport:
    """Return the report about a rule; examples come before counter-examples in all sequences."""
    truth = np.array([text.violates for text in texts])
    fires = calibration.fires
    fired = np.array([each.any() for each in fires])
    peaks = np.array([float(pair[0].max()) for pair in held_out])
    in_time, early = _delays(texts, fires)
    sides = {text.side for text in texts if text.violates}
    return LessonReport(
        rule_id=rule_id,
        num_examples=int(truth.sum()),
        num_counter_examples=int((~truth).sum()),
        recall=float(fired[truth].mean()),
        false_alarms=float(fired[~truth].mean()),
        f1=calibration.f1,
        auc=_auc(peaks, truth),
        ordinary=ordinary,
        in_time=in_time,
        early=early,
        others=others,
        conflicts=tuple(_conflicts(texts, fired, truth)),
        missed=tuple(int(index) for index in np.flatnonzero(truth & ~fired)),
        seconds=seconds,
        examples=tuple(examples),
        side_recall={} if len(sides) < 2 else {side: _side_recall(texts, fired, side) for side in sorted(sides)},
    )


def counts_as_learnt(peaks: NDArray[np.float64], truth: NDArray[np.bool_], recall: float) -> bool:
    """Say whether a rule counts as learnt, by its held-out scores and recall."""
    return _is_learnt(_auc(peaks, truth), recall)


def _is_learnt(auc: float, recall: float) -> bool:
    return auc >= MIN_AUC and recall >= MIN_RECALL


def _side_recall(texts: Sequence[PooledText], fired: NDArray[np.bool_], side: Side) -> float:
    chosen = [bool(hit) for text, hit in zip(texts, fired, strict=True) if text.violates and text.side is side]
    return sum(chosen) / len(chosen)


def _delays(texts: Sequence[PooledText], fires: Sequence[NDArray[np.bool_]]) -> tuple[float | None, float | None]:
    delays = [
        int(np.flatnonzero(found)[0]) + text.first - text.start
        for text, found in zip(texts, fires, strict=True)
        if text.start is not None and found.any()
    ]
    if not delays:
        return None, None
    values = np.array(delays)
    early = values < -_EARLY_TOKENS
    return float((~early & (values <= _SOON_TOKENS)).mean()), float(early.mean())


def _conflicts(texts: Sequence[PooledText], fired: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Iterator[Conflict]:
    points = np.stack([_point(text) for text in texts])
    points -= points.mean(axis=0)
    points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-6
    similarity = points[truth] @ points[~truth].T
    wrong = np.flatnonzero(fired != truth)
    num_examples = int(truth.sum())
    count = 0
    for flat in np.argsort(-similarity, axis=None):
        example, counter = divmod(int(flat), similarity.shape[1])
        if example in wrong or num_examples + counter in wrong:
            yield Conflict(example, counter, float(similarity[example, counter]))
            count += 1
            if count == _MOST_CONFLICTS:
                return


def _point(text: PooledText) -> Floats:
    mean: Floats = text.rows[matter_rows(text), -1].astype(np.float32).mean(axis=0).reshape(-1)
    return mean


def _auc(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the probability that a violation scores higher than a counter-example, ties counted half."""
    higher = scores[truth][:, None] - scores[~truth][None, :]
    return float((higher > 0).mean() + 0.5 * (higher == 0).mean())


def _short(example: RuleExample) -> str:
    text = " ".join(example.text.split())
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 1]}…"
