import dataclasses

import pytest
import torch

from streamward.model.decoder import dense_hidden
from streamward.schema import Category, RiskLevel, Side
from streamward.train.batching import SideTargets, collate, plan_batches
from streamward.train.examples import Example, TokenTarget
from streamward.train.loss import LossWeights, joint_loss, monotonicity_loss, response_terms, side_loss
from tests.train.tiny import GUARD_CONFIG, tiny_guard

EXAMPLES = [
    Example(
        (1, 2, 3, 4, 5),
        (
            TokenTarget(Side.PROMPT, 2, RiskLevel.UNSAFE, 1.0, (Category.VIOLENT, Category.JAILBREAK)),
            TokenTarget(Side.RESPONSE, 3, RiskLevel.SAFE, 0.5),
            TokenTarget(Side.RESPONSE, 4, RiskLevel.UNSAFE, 0.5, (Category.VIOLENT,)),
        ),
        1.0,
        "a",
    ),
    Example((7, 8), (TokenTarget(Side.PROMPT, 1, RiskLevel.SAFE, 1.0),), 0.5, "b"),
]


def one_target(categories: torch.Tensor) -> SideTargets:
    zero = torch.tensor([0])
    return SideTargets(zero, torch.tensor([1]), torch.tensor([1.0]), categories, zero)


def test_the_joint_loss_of_a_fixed_batch_stays_what_it_was() -> None:
    model = tiny_guard()
    batch = collate(EXAMPLES, GUARD_CONFIG)
    hidden = dense_hidden(model.decoder, batch.ids_BS).flatten(0, 1)
    loss, _ = joint_loss(model, hidden, batch, weights=LossWeights(category=0.3, response=1.0))
    assert loss.item() == pytest.approx(1.453921, abs=1e-4)


def test_the_category_is_not_asked_for_where_it_is_unknown() -> None:
    targets = one_target(torch.zeros(1, 8))
    assert float(side_loss(torch.zeros(1, 3), torch.randn(1, 8), targets).category) == 0.0


def test_any_of_several_acceptable_categories_is_right() -> None:
    targets = one_target(torch.tensor([[1.0, 1.0, 0.0]]))
    sure = torch.tensor([[0.0, 20.0, 0.0]])
    assert float(side_loss(torch.zeros(1, 3), sure, targets).category) == pytest.approx(0.0, abs=1e-4)


def test_a_batch_never_pads_beyond_its_limit_and_loses_no_example() -> None:
    lengths = [5, 90, 17, 64, 3, 33, 90, 12]
    plan = plan_batches(lengths, max_tokens=100, seed=1)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    assert all(max(lengths[index] for index in batch) * len(batch) <= 100 for batch in plan)


def test_no_examples_make_no_batch() -> None:
    assert plan_batches([], max_tokens=100, seed=1) == []


def response_targets(owners: list[int]) -> SideTargets:
    count = len(owners)
    return SideTargets(
        torch.arange(count),
        torch.ones(count, dtype=torch.int64),
        torch.full((count,), 1 / count),
        torch.zeros(count, 8),
        torch.tensor(owners),
    )


def response_loss(risk: torch.Tensor, targets: SideTargets, **terms: float) -> float:
    weights = LossWeights(category=0.0, response=1.0, **terms)
    level = side_loss(risk, torch.zeros(len(risk), 8), targets).risk
    return float(level + response_terms(risk, targets, weights=weights, safe=0))


def test_one_false_alarm_in_a_safe_response_weighs_as_much_as_the_worst_token_term_says() -> None:
    risk = torch.tensor([[9.0, 0.0, 0.0]] * 18 + [[0.0, 9.0, 0.0]] * 2)
    safe = dataclasses.replace(response_targets([0] * 20), levels_N=torch.zeros(20, dtype=torch.int64))
    assert response_loss(risk, safe) == pytest.approx(0.9, abs=0.01)
    assert response_loss(risk, safe, worst_token=1.0) == pytest.approx(9.0, abs=0.01)
    assert response_loss(risk, safe, worst_token=0.5) == pytest.approx(4.95, abs=0.01)
    assert response_loss(risk, response_targets([0] * 20), worst_token=1.0) == response_loss(
        risk, response_targets([0] * 20)
    )


def test_only_a_fall_of_the_risk_within_one_response_counts_against_monotonicity() -> None:
    low, high = [5.0, 0.0, 0.0], [0.0, 5.0, 0.0]
    rising, falling = torch.tensor([low, high]), torch.tensor([high, low])
    assert float(monotonicity_loss(rising, response_targets([0, 0]), safe=0)) == 0.0
    assert float(monotonicity_loss(falling, response_targets([0, 0]), safe=0)) > 0.4
    assert float(monotonicity_loss(falling, response_targets([0, 1]), safe=0)) == 0.0


def test_the_loss_with_every_term_of_a_fixed_batch_stays_what_it_was() -> None:
    model = tiny_guard()
    targets = tuple(TokenTarget(Side.RESPONSE, index, RiskLevel.UNSAFE, 0.25) for index in range(1, 5))
    batch = collate([*EXAMPLES, Example((1, 9, 8, 3, 7), targets, 1.0, "c")], GUARD_CONFIG)
    hidden = dense_hidden(model.decoder, batch.ids_BS).flatten(0, 1)
    weights = LossWeights(category=0.3, response=1.0, worst_token=0.5, monotonicity=0.5)
    loss, _ = joint_loss(model, hidden, batch, weights=weights)
    assert loss.item() == pytest.approx(1.491014, abs=1e-4)
