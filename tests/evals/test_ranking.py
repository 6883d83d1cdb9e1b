import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from streamward.evals.ranking import auroc, average_precision, best_f1, curve, rank, ranking

SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9, 1.0])  # few values: many ties
ROWS = st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({truth for _, truth in rows}) == 2
)


@settings(deadline=None)
@given(ROWS)
def test_areas_equal_those_of_scikit_learn(rows):
    scores, truths = zip(*rows, strict=True)
    tp, fp = rank(scores, truths).cumulated()
    assert auroc(tp, fp) == pytest.approx(roc_auc_score(truths, scores))
    assert average_precision(tp, fp) == pytest.approx(average_precision_score(truths, scores))


@settings(deadline=None)
@given(ROWS)
def test_the_best_f1_is_that_of_the_best_line(rows):
    scores, truths = zip(*rows, strict=True)
    lines = {float(score) for score in scores}
    expected = max(f1_score(truths, [score >= line for score in scores], zero_division=0) for line in lines)
    assert best_f1(*rank(scores, truths).cumulated()) == pytest.approx(expected)


@settings(deadline=None)
@given(ROWS)
def test_the_curve_goes_through_the_points_of_scikit_learn(rows):
    scores, truths = zip(*rows, strict=True)
    false_stops, recall, _ = roc_curve(truths, scores, drop_intermediate=False)
    ours = [(each.false_stop_rate, each.recall) for each in curve(rank(scores, truths))]
    np.testing.assert_allclose(ours, np.stack([false_stops, recall], axis=1)[1:], atol=1e-4)


@settings(deadline=None)
@given(ROWS)
def test_weights_count_as_repeated_rows(rows):
    scores, truths = zip(*rows, strict=True)
    weights = np.arange(1, len(rows) + 1, dtype=np.float64)
    tp, fp = rank(scores, truths).cumulated(weights)
    assert auroc(tp, fp) == pytest.approx(roc_auc_score(truths, scores, sample_weight=weights))


def test_rows_of_one_kind_have_no_order():
    assert rank([0.1, 0.9], [True, True]) is None


def test_areas_come_with_intervals_around_them():
    rng = np.random.default_rng(1)
    truths = [bool(each) for each in rng.integers(2, size=300)]
    scores = [float(each) for each in rng.random(300) + 0.3 * np.asarray(truths)]
    found = ranking(rank(scores, truths))
    assert found.auroc.low < found.auroc.value < found.auroc.high
    assert found.auprc.low < found.auprc.value < found.auprc.high
    assert found.auroc.value == pytest.approx(roc_auc_score(truths, scores))
