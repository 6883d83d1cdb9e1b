"""Thresholds of a rule: by cross-validation, at a stated rate of false positives on ordinary traffic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.rules.features import PooledText, matter_rows
from streamward.rules.fit import OrdinaryRows, fit
from streamward.rules.ordinary_scores import OrdinaryInputs, OrdinaryScores
from streamward.rules.probe import Floats
from streamward.schema import Side

NUM_FOLDS = 8
_PRIOR_TEXTS = 30
_erfc = np.vectorize(math.erfc, otypes=[np.float64])

ScorePair = tuple[Floats, Floats]


@dataclass(frozen=True, slots=True)
class Thresholds2D:
    """The thresholds that both heads must reach.

    Attributes:
        violation: Threshold of the head that tells violations from look-alikes.
        gate: Threshold of the head that tells the rule's matter from ordinary traffic.
    """

    violation: float
    gate: float

    def fires(self, scores: ScorePair, *, run: int) -> NDArray[np.bool_]:
        """Return at which rows a rule fires: where it has for `run` successive rows, or all of a shorter text."""
        over = (scores[0] >= self.violation) & (scores[1] >= self.gate)
        length = min(run, len(over))
        result = over.copy()
        for back in range(1, length):
            result[back:] &= over[:-back]
        result[: length - 1] = False
        return result


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of every text by heads that were taught without it and what resembles it.

    Attributes:
        scores: Scores of each text.
        folds: Fold of each text.
        ordinary: Scores of ordinary texts by the heads of each fold. Heads that saw fewer examples score everything
            lower or higher than those of all examples, so each fold has a gate of its own.
    """

    scores: tuple[ScorePair, ...]
    folds: NDArray[np.intp]
    ordinary: tuple[OrdinaryScores, ...]


@dataclass(frozen=True)
class RuleCalibration:
    """Thresholds, and what teaching in the same way comes to on texts that it did not see.

    Attributes:
        thresholds: Thresholds of the heads taught from all examples.
        fires: For each example, at which of its rows the heads of its fold fire, at thresholds set for them.
        f1: F1 of that.
    """

    thresholds: Thresholds2D
    fires: tuple[NDArray[np.bool_], ...]
    f1: float


def folds(texts: Sequence[PooledText], *, num_folds: int = NUM_FOLDS) -> NDArray[np.intp]:
    """Return a fold for each text; texts that resemble each other share one.

    An example and its look-alike are often written about the same situation. If one of them is held out and the other
    is not, the estimate is worse than chance; so k-means over the texts' averages makes the folds.
    """
    points = np.stack([_average(text) for text in texts])
    points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-6
    count = max(2, min(num_folds, len(texts) // 2))  # small folds: what is taught without one must not lack much
    centers = points[[0]]
    while len(centers) < count:  # the farthest from those there are, so that every run gives the same folds
        similarity = (points @ centers.T).max(axis=1)
        centers = np.concatenate([centers, points[[int(similarity.argmin())]]])
    labels = np.zeros(len(points), np.intp)
    capacity = -(-len(points) // count) + 1
    for _ in range(20):
        labels = _assigned(points @ centers.T, capacity)
        centers = np.stack([points[labels == k].mean(axis=0) for k in range(count)])
    return labels


def _assigned(similarity: Floats, capacity: int) -> NDArray[np.intp]:
    """Assign each point to its nearest centre with room left, the clearest first."""
    order = np.argsort(-similarity.max(axis=1), kind="stable")
    room = np.full(similarity.shape[1], capacity)
    labels = np.zeros(len(similarity), np.intp)
    for point in order:
        for center in np.argsort(-similarity[point], kind="stable"):
            if room[center] > 0:
                labels[point] = center
                room[center] -= 1
                break
    empty = [center for center in range(similarity.shape[1]) if not (labels == center).any()]
    for center in empty:
        labels[int(similarity[:, center].argmax())] = center
    return labels


def _average(text: PooledText) -> Floats:
    indices = matter_rows(text)
    mean: Floats = text.rows[indices, -1].astype(np.float32).mean(axis=0).reshape(-1)
    return mean


def cross_validate(
    texts: Sequence[PooledText],
    ordinary: OrdinaryRows,
    calibration: OrdinaryInputs,
    *,
    prior: Floats | None = None,
) -> HeldOutScores:
    """Teach once for each fold without it, and score what was left out.

    Args:
        texts: Examples and counter-examples.
        ordinary: Rows that gates are taught against.
        calibration: Ordinary texts that thresholds are set on.
        prior: As for `fit`.
    """
    labels = folds(texts)
    found: dict[int, ScorePair] = {}
    others = []
    for fold in range(int(labels.max()) + 1):
        train = [text for text, label in zip(texts, labels, strict=True) if label != fold]
        if len({text.violates for text in train}) < 2:
            train = list(texts)  # nothing is left to tell apart; such a rule is refused for its figures anyway
        rule = fit(train, ordinary, prior=prior)
        others.append(calibration.scores(rule))
        for index in np.flatnonzero(labels == fold):
            found[int(index)] = rule.score(texts[int(index)])
    return HeldOutScores(tuple(found[index] for index in range(len(texts))), labels, tuple(others))


def choose(
    held_out: HeldOutScores,
    violates: Sequence[bool],
    ordinary: OrdinaryScores,
    *,
    false_positives: float,
    run: Sequence[int],
) -> RuleCalibration:
    """Choose both thresholds together: the best F1 on held-out examples at the stated rate on ordinary traffic.

    With a few dozen texts the threshold of the best F1 is an accident of two or three of them. So the F1 is that of
    normal distributions with the means and the spread of the held-out scores, and the threshold is moved towards 0,
    where it lies for most rules, as if _PRIOR_TEXTS texts had been in favour of that.

    Args:
        held_out: Scores of the examples.
        violates: Their labels.
        ordinary: Scores of ordinary texts, by the heads taught from all examples.
        false_positives: Most ordinary texts at which the rule may fire, as a share.
        run: Successive tokens at which it must, for each example.
    """
    truth = np.array(violates)
    peaks = np.array([_steady(pair[0], length).max() for pair, length in zip(held_out.scores, run, strict=True)])
    threshold = _best_threshold(peaks, truth) * len(peaks) / (len(peaks) + _PRIOR_TEXTS)
    gates = [each.gate(threshold, false_positives) for each in held_out.ordinary]
    fires = tuple(
        Thresholds2D(threshold, gates[fold]).fires(pair, run=length)
        for pair, fold, length in zip(held_out.scores, held_out.folds, run, strict=True)
    )
    thresholds = Thresholds2D(threshold, ordinary.gate(threshold, false_positives))
    return RuleCalibration(thresholds, fires, f1(np.array([each.any() for each in fires]), truth))


def _best_threshold(peaks: Floats, truth: NDArray[np.bool_]) -> float:
    """Return the threshold of the best F1 if the scores of both labels were normally distributed with one spread."""
    found = [peaks[truth], peaks[~truth]]
    spread = math.sqrt((found[0].var() + found[1].var()) / 2) + 1e-6
    candidates = np.linspace(float(peaks.min()), float(peaks.max()), 200)
    over = [0.5 * _erfc((candidates - float(own.mean())) / spread / math.sqrt(2)) for own in found]
    violations, allowed = over[0] * len(found[0]), over[1] * len(found[1])
    return float(candidates[int((2 * violations / (violations + allowed + len(found[0]))).argmax())])


def _steady(values: Floats, run: int) -> Floats:
    """Return the least of `run` successive values up to each."""
    length = min(run, len(values))
    result = values.copy()
    for back in range(1, length):
        result[back:] = np.minimum(result[back:], values[:-back])
    return result[length - 1 :]


def f1(fired: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the F1 of the violations."""
    hits = int((fired & truth).sum())
    return 0.0 if hits == 0 else 2 * hits / int(fired.sum() + truth.sum())


def run_of(side: Side, prompt: int, response: int) -> int:
    """Return the successive tokens that a policy asks for on a side."""
    return prompt if side is Side.PROMPT else response
