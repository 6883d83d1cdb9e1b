import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from streamward.evals.metrics import Counts, count

ROWS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1)


@settings(deadline=None)
@given(ROWS)
def test_figures_equal_those_of_scikit_learn(rows: list[tuple[bool, bool]]) -> None:
    flagged, unsafe = (list(column) for column in zip(*rows, strict=True))
    counts = count(flagged, unsafe)
    assert counts.f1 == pytest.approx(f1_score(unsafe, flagged, zero_division=0))
    assert counts.precision == pytest.approx(precision_score(unsafe, flagged, zero_division=0))
    assert counts.recall == pytest.approx(recall_score(unsafe, flagged, zero_division=0))


def test_false_positives_are_counted_among_safe_rows() -> None:
    assert count([True, False, True, False], [False, False, True, True]).false_positive_rate == 0.5


def test_no_rows_give_zeros() -> None:
    counts = Counts()
    assert (counts.f1, counts.precision, counts.recall, counts.false_positive_rate) == (0.0, 0.0, 0.0, 0.0)
