import pytest
from scipy.stats import binomtest

from streamward.evals.intervals import mcnemar, paired, point
from streamward.evals.metrics import Counts


def test_an_interval_is_about_as_wide_as_theory_says():
    recall = point(Counts(true_positives=80, false_negatives=20)).recall
    assert recall is not None
    assert recall.value == 0.8
    half = 1.96 * (0.8 * 0.2 / 100) ** 0.5
    assert recall.low == pytest.approx(0.8 - half, abs=0.015)
    assert recall.high == pytest.approx(0.8 + half, abs=0.015)


def test_more_rows_give_a_narrower_interval():
    few, many = (point(Counts(3 * n, n, n, 3 * n)).f1 for n in (10, 1000))
    assert few is not None and many is not None
    assert many.high - many.low < (few.high - few.low) / 5


def test_the_same_counts_give_the_same_interval():
    assert point(Counts(5, 4, 3, 2)) == point(Counts(5, 4, 3, 2))


def test_unsafe_rows_only_say_nothing_of_false_positives_or_precision():
    found = point(Counts(true_positives=3, false_negatives=1))
    assert found.false_positive_rate is None
    assert found.precision is None
    assert found.recall is not None


def test_safe_rows_only_say_nothing_of_recall_or_f1():
    found = point(Counts(false_positives=1, true_negatives=3))
    assert found.f1 is None
    assert found.recall is None
    assert found.false_positive_rate is not None and found.false_positive_rate.value == 0.25


def test_a_pair_of_guards_by_hand():
    # unsafe: both, first, second, neither; safe: first, neither
    first, second = [True, True, False, False, True, False], [True, False, True, False, False, False]
    found = paired(first, second, [True, True, True, True, False, False])
    assert found.rows == 6
    assert found.recall_change is not None and found.recall_change.value == 0.0
    assert found.false_positive_rate_change is not None and found.false_positive_rate_change.value == -0.5
    assert found.f1_change is not None
    assert found.f1_change.value == pytest.approx(4 / 6 - 4 / 7)
    assert found.p_value == mcnemar(1, 2)  # right alone: the first on row 2; the second on rows 3 and 5


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (1, 7, 18 / 256)]
)
def test_mcnemar_by_hand(only_first, only_second, p):
    assert mcnemar(only_first, only_second) == pytest.approx(p)


def test_mcnemar_equals_the_exact_binomial_test():
    assert mcnemar(40, 61) == pytest.approx(binomtest(40, 101).pvalue)


def test_equal_guards_do_not_differ():
    flags = [True, False, True, False]
    found = paired(flags, flags, [True, True, False, False])
    assert found.p_value == 1.0
    assert found.f1_change is not None
    assert (found.f1_change.low, found.f1_change.high) == (0.0, 0.0)


@pytest.mark.parametrize("number", [1, 10, 100])
def test_none_or_all_of_few_rows_leaves_the_doubt_of_the_exact_test(number):
    none, all_of_them = point(Counts(false_negatives=number)).recall, point(Counts(true_positives=number)).recall
    assert none is not None and all_of_them is not None
    exact = binomtest(0, number).proportion_ci(0.95)
    assert (none.low, none.high) == pytest.approx((exact.low, exact.high))
    assert (all_of_them.low, all_of_them.high) == pytest.approx((1 - exact.high, 1.0))
