import pytest
import torch

from streamward.schema import RiskLevel, Side
from streamward.train.operating_point import best_threshold, operating_point
from streamward.train.scoring import Score, held_peak


def score(example: int, risky: float, level: RiskLevel) -> Score:
    return Score(example, Side.PROMPT, unsafe=risky, risky=risky, level=level)


def test_the_line_separates_what_can_be_separated() -> None:
    scores = [score(0, 0.2, RiskLevel.SAFE), score(1, 0.4, RiskLevel.SAFE), score(2, 0.8, RiskLevel.UNSAFE)]
    point = operating_point(scores, ordinary=(), max_false_positive_rate=0.02)
    assert 0.4 < point.controversial <= 0.8


def test_ordinary_traffic_moves_the_line_up() -> None:
    scores = [score(0, 0.6, RiskLevel.SAFE), score(1, 0.5, RiskLevel.UNSAFE), score(2, 0.55, RiskLevel.UNSAFE)]
    assert operating_point(scores, ordinary=(), max_false_positive_rate=0.02).controversial <= 0.5
    assert operating_point(scores, ordinary={0}, max_false_positive_rate=0.02).controversial > 0.6


def test_unsafe_is_never_easier_to_reach_than_controversial() -> None:
    scores = [score(0, 0.3, RiskLevel.SAFE), score(1, 0.5, RiskLevel.CONTROVERSIAL), score(2, 0.9, RiskLevel.UNSAFE)]
    point = operating_point(scores, ordinary=(), max_false_positive_rate=0.02)
    assert point.unsafe >= point.controversial
    assert point.unsafe > 0.5


@pytest.mark.parametrize(("run", "peak"), [(1, 0.9), (2, 0.6), (9, 0.1)])
def test_a_peak_must_hold_for_a_run_of_tokens(run: int, peak: float) -> None:
    assert held_peak(torch.tensor([0.1, 0.9, 0.3, 0.6, 0.7]), run=run) == pytest.approx(peak)


def test_safe_rows_of_any_kind_can_move_the_line_up_too() -> None:
    scores = [score(index, 0.6, RiskLevel.SAFE) for index in range(2)]
    scores += [score(index, 0.3 + index / 20, RiskLevel.UNSAFE) for index in range(2, 9)]
    free = operating_point(scores, ordinary=(), max_false_positive_rate=0.02)
    bound = operating_point(scores, ordinary=(), max_false_positive_rate=0.02, max_safe_rate=0.2)
    assert free.controversial <= 0.6 < bound.controversial


def test_the_best_line_keeps_its_caps() -> None:
    values = torch.tensor([0.1, 0.6, 0.2, 0.55, 0.7])
    positive = torch.tensor([False, False, False, True, True])
    assert best_threshold(values, positive) == pytest.approx((0.2 + 0.55) / 2)
    assert best_threshold(values, positive, [(~positive, 0.2)]) == pytest.approx((0.6 + 0.7) / 2)
    assert best_threshold(torch.ones(2), torch.tensor([False, True]), [(torch.tensor([True, False]), 0.1)]) == 1.0
    assert best_threshold(values, torch.zeros(5, dtype=torch.bool), [(~positive, 0.2)]) > 0.6, (
        "nothing to find: flag little"
    )


def test_more_values_than_lines_tried_still_give_a_good_line() -> None:
    values = torch.linspace(0, 1, 5001)
    assert best_threshold(values, values > 0.3) == pytest.approx(0.3, abs=0.005)


def test_recall_takes_the_lowest_line_that_is_allowed() -> None:
    values = torch.tensor([0.1, 0.3, 0.4, 0.9])
    positive = torch.tensor([False, False, False, True])
    assert best_threshold(values, positive) == pytest.approx(0.65)
    assert best_threshold(values, positive, [(~positive, 0.4)], aim="recall") == pytest.approx(0.35)
    assert (
        best_threshold(torch.ones(2), torch.tensor([False, True]), [(torch.tensor([True, False]), 0.1)], aim="recall")
        == 1
    )
