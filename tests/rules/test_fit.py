"""Learning a rule from pooled hidden states, and choosing its thresholds."""

import numpy as np
import pytest

from streamward.rules.calibration import HeldOutScores, Thresholds2D, choose, cross_validate, folds
from streamward.rules.features import PooledText, Standard, first_row, inputs, matter_rows, pool
from streamward.rules.fit import OrdinaryRows, fit
from streamward.rules.ordinary_scores import OrdinaryInputs, OrdinaryScores
from streamward.rules.prior import CommonDirection, LabelledRows
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
    rows = pool(states, STANDARD, Side.RESPONSE)
    return PooledText(Side.RESPONSE, rows, violation > 0, start, first_row(Side.RESPONSE, length))


def examples(rng: np.random.Generator, count: int, strength: float = 3.0) -> list[PooledText]:
    violations = [text(rng, matter=3.0, violation=strength, start=15) for _ in range(count)]
    return violations + [text(rng, matter=3.0, violation=0.0, start=None) for _ in range(count)]


def ordinary(rng: np.random.Generator, count: int) -> list[PooledText]:
    return [text(rng, matter=0.0, violation=1.0, start=None) for _ in range(count)]


def gate_rows(texts: list[PooledText]) -> OrdinaryRows:
    return OrdinaryRows(inputs(np.stack([each.rows[-1] for each in texts]), is_gate=True))


def test_a_rule_is_learnt_found_where_it_begins_and_silent_on_ordinary_text() -> None:
    rng = np.random.default_rng(0)
    train, others = examples(rng, 15), ordinary(rng, 80)
    fitted = fit(train, gate_rows(others[:40]))
    calibration = OrdinaryInputs.of(others[40:])
    held_out = cross_validate(train, gate_rows(others[:40]), calibration)
    thresholds = choose(
        held_out,
        [each.violates for each in train],
        calibration.scores(fitted),
        false_positives=0.05,
        run=[2] * len(train),
    ).thresholds
    fresh = examples(rng, 20)
    fired = [thresholds.fires(fitted.score(each), run=2) for each in fresh]
    hits = np.array([each.any() for each in fired])
    assert hits[:20].mean() >= 0.9
    assert hits[20:].mean() <= 0.2
    delays = [int(np.flatnonzero(each)[0]) + fresh[i].first - 15 for i, each in enumerate(fired[:20]) if each.any()]
    assert np.median(delays) <= 12
    silent = [thresholds.fires(fitted.score(each), run=1).any() for each in others[40:]]
    assert np.mean(silent) <= 0.05
    scores = calibration.scores(fitted)
    assert scores.num_fired(thresholds.violation, thresholds.gate) == sum(silent)


def test_labels_without_a_pattern_are_not_learnt() -> None:
    rng = np.random.default_rng(1)
    mixed = examples(rng, 20, strength=0.001)
    held_out = cross_validate(mixed, gate_rows(ordinary(rng, 40)), OrdinaryInputs.of([]))
    peaks = np.array([pair[0].max() for pair in held_out.scores])
    truth = np.array([each.violates for each in mixed])
    auc = (peaks[truth][:, None] > peaks[~truth]).mean()
    assert auc < 0.75


def test_texts_that_resemble_each_other_share_a_fold() -> None:
    rng = np.random.default_rng(2)
    situations = [rng.normal(size=(30, TAPS, SIZE)) * 3 for _ in range(12)]
    texts = []
    for states in situations:
        for violates in (True, False):
            rows = pool(states + rng.normal(size=states.shape) * 0.1, STANDARD, Side.RESPONSE)
            texts.append(PooledText(Side.RESPONSE, rows, violates, None, 4))
    labels = folds(texts)
    together = [labels[2 * index] == labels[2 * index + 1] for index in range(12)]
    assert sum(together) >= 9
    assert len(set(labels.tolist())) > 1


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1])
def test_the_rate_of_false_positives_is_kept(rate: float) -> None:
    rng = np.random.default_rng(3)
    pairs = [(rng.normal(size=30).astype(np.float32), rng.normal(size=30).astype(np.float32)) for _ in range(200)]
    first, second = (np.concatenate([pair[part] for pair in pairs]) for part in (0, 1))
    ordinary_scores = OrdinaryScores(first, second, np.arange(0, 6000, 30))
    held_out = HeldOutScores(tuple(pairs[:40]), np.arange(40) % 2, (ordinary_scores, ordinary_scores))
    found = choose(
        held_out, [index % 2 == 0 for index in range(40)], ordinary_scores, false_positives=rate, run=[1] * 40
    )
    fired = [found.thresholds.fires(pair, run=1).any() for pair in pairs]
    assert np.mean(fired) <= rate
    assert ordinary_scores.num_fired(found.thresholds.violation, found.thresholds.gate) == sum(fired)


def scattered(rng: np.random.Generator, count: int, *, matter: float, violation: float) -> list[PooledText]:
    """Texts that each have a direction of their own beside the rule's."""
    texts = []
    for _ in range(count):
        states = rng.normal(size=(40, TAPS, SIZE)) + rng.normal(size=(1, 1, SIZE))
        states[:, :, 0] += matter
        states[15:, :, 1] += violation
        start = 15 if violation else None
        rows = pool(states, STANDARD, Side.RESPONSE)
        texts.append(PooledText(Side.RESPONSE, rows, violation > 0, start, first_row(Side.RESPONSE, 40)))
    return texts


def test_cross_validation_expects_what_new_texts_get() -> None:
    expected, found, by_one_gate = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        train = [each for strength in (3.0, 0.0) for each in scattered(rng, 5, matter=2.5, violation=strength)]
        others = scattered(rng, 100, matter=0.0, violation=0.0)
        calibration, rows = OrdinaryInputs.of(others[50:]), gate_rows(others[:50])
        fitted, held_out = fit(train, rows), cross_validate(train, rows, calibration)
        labels = [each.violates for each in train]
        chosen = choose(held_out, labels, calibration.scores(fitted), false_positives=0.02, run=[2] * 10)
        fresh = scattered(rng, 20, matter=2.5, violation=3.0)
        expected.append(np.mean([fires.any() for fires in chosen.fires[:5]]))
        by_one_gate.append(np.mean([chosen.thresholds.fires(each, run=2).any() for each in held_out.scores[:5]]))
        found.append(np.mean([chosen.thresholds.fires(fitted.score(each), run=2).any() for each in fresh]))
    assert abs(np.mean(expected) - np.mean(found)) <= 0.25
    assert np.mean(expected) - np.mean(by_one_gate) >= 0.1  # heads of a fold, judged by the gate of all, look worse


def test_few_examples_are_left_out_a_few_at_a_time() -> None:
    rng = np.random.default_rng(8)
    labels = folds(scattered(rng, 10, matter=1.0, violation=1.0))
    assert len(set(labels.tolist())) == 5
    assert np.bincount(labels).max() <= 3  # heads taught from half of ten texts say nothing about those of all


def test_what_violations_of_other_rules_have_in_common_helps_a_rule_with_few_examples() -> None:
    rng = np.random.default_rng(5)
    texts = [each for _ in range(6) for each in examples(rng, 10)]
    common = CommonDirection(LabelledRows.of(texts, [index for index in range(6) for _ in range(20)]))
    few, fresh = examples(rng, 1, strength=0.4), examples(rng, 60, strength=0.4)
    truth = np.array([each.violates for each in fresh])
    aucs = []
    for prior in (None, common.without(frozenset())):
        rule = fit(few, gate_rows(ordinary(rng, 20)), prior=prior)
        last = np.array([rule.score(each)[0][-1] for each in fresh])
        aucs.append((last[truth][:, None] > last[~truth]).mean())
    assert aucs[1] > aucs[0] + 0.1


def test_the_gate_is_the_solution_of_ridge_regression() -> None:
    rng = np.random.default_rng(7)
    texts, others = examples(rng, 4), gate_rows(ordinary(rng, 30))
    gate = fit(texts, others).gate
    own = [(text.rows[index], 1 / len(matter_rows(text)) / 8) for text in texts for index in matter_rows(text)]
    x = np.concatenate([inputs(np.stack([row for row, _ in own]), is_gate=True), others.x]).astype(np.float64)
    y = np.concatenate([np.ones(len(own)), -np.ones(30)])
    w = np.concatenate([[share for _, share in own], np.full(30, 1 / 30)])
    center, middle = w @ x / w.sum(), w @ y / w.sum()
    system = (x - center).T @ ((x - center) * w[:, None]) + 0.005 * np.eye(x.shape[1])
    expected = np.linalg.solve(system, (x - center).T @ (w * (y - middle)))
    assert np.allclose(gate.weights, expected, atol=1e-3)
    assert np.isclose(gate.bias, middle - center @ expected, atol=1e-3)


def test_a_rule_that_is_left_out_counts_for_nothing_in_the_common_direction() -> None:
    rng = np.random.default_rng(6)
    texts = [each for _ in range(3) for each in examples(rng, 5)]
    rules = [index for index in range(3) for _ in range(10)]
    without = CommonDirection(LabelledRows.of(texts, rules)).without(frozenset({1}))
    kept = [index for index, rule in enumerate(rules) if rule != 1]
    alone = CommonDirection(LabelledRows.of([texts[i] for i in kept], [rules[i] for i in kept])).without(frozenset())
    assert np.allclose(without, alone, atol=1e-4)


def test_a_rule_fires_after_successive_tokens_or_a_whole_short_text() -> None:
    thresholds = Thresholds2D(0.5, 0.0)
    gate = np.ones(5, np.float32)
    over = np.array([1, 0, 1, 1, 1], np.float32)
    assert thresholds.fires((over, gate), run=2).tolist() == [False, False, False, True, True]
    assert thresholds.fires((over[:1], gate[:1]), run=3).tolist() == [True]
    assert not thresholds.fires((over, -gate), run=1).any()
