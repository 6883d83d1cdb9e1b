import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from streamward.evals.calibration import calibration


def test_expected_calibration_error_by_hand():
    found = calibration([0.05, 0.15, 0.15, 1.0], [False, True, False, True])
    assert found is not None
    assert [(each.low, each.rows, each.unsafe_share) for each in found.bins] == [
        (0.0, 1, 0.0),
        (0.1, 2, 0.5),
        (0.9, 1, 1.0),
    ]
    assert found.ece == pytest.approx((0.05 + 2 * 0.35 + 0.0) / 4)


def test_risks_that_come_true_as_often_as_they_say_have_no_error():
    found = calibration([0.25] * 4 + [0.75] * 4, [True, False, False, False, True, True, True, False])
    assert found is not None
    assert found.ece == 0.0


def test_no_rows_have_no_calibration():
    assert calibration([], []) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_bins_equal_those_of_scikit_learn(rows):
    edges = np.linspace(0, 1, 11)
    rows = [(risk, truth) for risk, truth in rows if not np.isclose(risk, edges, atol=1e-6).any()] or [(0.55, True)]
    risks, truths = zip(*rows, strict=True)
    found = calibration(risks, truths)
    shares, means = calibration_curve(truths, risks, n_bins=10)
    assert [each.unsafe_share for each in found.bins] == pytest.approx(shares.tolist())
    assert [each.mean_risk for each in found.bins] == pytest.approx(means.tolist())
