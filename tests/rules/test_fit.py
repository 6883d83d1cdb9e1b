"""Learning a rule from pooled hidden states, and choosing its thresholds."""

import numpy as np
import pytest

from streamward.rules.calibration import Thresholds2D, choose, cross_validate, folds, ordinary_scores
from streamward.rules.features import PooledText, Standard, first_row, inputs, pool
from streamward.rules.fit import fit
from streamward.schema import Side

SIZE, TAPS = 24, 3
STANDARD = Standard(np.zeros((TAPS, SIZE), np.float32), np.ones((TAPS, SIZE), np.float32))


def text(
    rng: np.random.Generator, *, matter: float, violation: float, start: int | None, length: int = 40
) -> PooledText:
    """A response whose tokens point along the rule's matter, and from `start` on along its violation."""
    states = rng.normal(size=(length, TAPS, SIZE))
    states[:, :, 0] += matter
    states[start or 0 :, :, 1] += violation
    rows = pool(states, STANDARD)
    return PooledText(Side.RESPONSE, rows, violation > 0, start, first_row(Side.RESPONSE, length))


def examples(rng: np.random.Generator, count: int, strength: float = 3.0) -> list[PooledText]:
    violations = [text(rng, matter=3.0, violation=strength, start=15) for _ in range(count)]
    return violations + [text(rng, matter=3.0, violation=0.0, start=None) for _ in range(count)]


def ordinary(rng: np.random.Generator, count: int) -> list[PooledText]:
    return [text(rng, matter=0.0, violation=1.0, start=None) for _ in range(count)]


def gate_rows(texts: list[PooledText]) -> np.ndarray:
    return inputs(np.stack([each.rows[-1] for each in texts]), is_gate=True)


def test_a_rule_is_learnt_found_where_it_begins_and_silent_on_ordinary_text() -> None:
    rng = np.random.default_rng(0)
    train, others = examples(rng, 15), ordinary(rng, 80)
    fitted = fit(train, gate_rows(others[:40]))
    held_out = cross_validate(train, gate_rows(others[:40]))
    calibration = ordinary_scores(fitted, others[40:], frozenset({Side.RESPONSE}))
    thresholds = choose(
        held_out, [each.violates for each in train], calibration, false_positives=0.05, run=[2] * len(train)
    )
    fresh = examples(rng, 20)
    fired = [thresholds.fires(fitted.score(each), run=2) for each in fresh]
    hits = np.array([each.any() for each in fired])
    assert hits[:20].mean() >= 0.9
    assert hits[20:].mean() <= 0.2
    delays = [int(np.flatnonzero(each)[0]) + fresh[i].first - 15 for i, each in enumerate(fired[:20]) if each.any()]
    assert np.median(delays) <= 12
    silent = [thresholds.fires(pair, run=1).any() for pair in calibration]
    assert np.mean(silent) <= 0.05


def test_labels_without_a_pattern_are_not_learnt() -> None:
    rng = np.random.default_rng(1)
    mixed = examples(rng, 20, strength=0.001)
    held_out = cross_validate(mixed, gate_rows(ordinary(rng, 40)))
    peaks = np.array([pair[0].max() for pair in held_out])
    truth = np.array([each.violates for each in mixed])
    auc = (peaks[truth][:, None] > peaks[~truth]).mean()
    assert auc < 0.75


def test_texts_that_resemble_each_other_share_a_fold() -> None:
    rng = np.random.default_rng(2)
    situations = [rng.normal(size=(30, TAPS, SIZE)) * 3 for _ in range(12)]
    texts = []
    for states in situations:
        for violates in (True, False):
            rows = pool(states + rng.normal(size=states.shape) * 0.1, STANDARD)
            texts.append(PooledText(Side.RESPONSE, rows, violates, None, 4))
    labels = folds(texts)
    together = [labels[2 * index] == labels[2 * index + 1] for index in range(12)]
    assert sum(together) >= 9
    assert len(set(labels.tolist())) > 1


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1])
def test_the_rate_of_false_positives_is_kept(rate: float) -> None:
    rng = np.random.default_rng(3)
    pairs = [(rng.normal(size=30).astype(np.float32), rng.normal(size=30).astype(np.float32)) for _ in range(200)]
    scores = pairs[:40]
    thresholds = choose(scores, [index % 2 == 0 for index in range(40)], pairs, false_positives=rate, run=[1] * 40)
    assert np.mean([thresholds.fires(pair, run=1).any() for pair in pairs]) <= rate


def test_a_rule_fires_after_successive_tokens_or_a_whole_short_text() -> None:
    thresholds = Thresholds2D(0.5, 0.0, 1.0)
    gate = np.ones(5, np.float32)
    over = np.array([1, 0, 1, 1, 1], np.float32)
    assert thresholds.fires((over, gate), run=2).tolist() == [False, False, False, True, True]
    assert thresholds.fires((over[:1], gate[:1]), run=3).tolist() == [True]
    assert not thresholds.fires((over, -gate), run=1).any()
