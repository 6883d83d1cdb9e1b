"""Offsets keep the allowed rates, and what they flag is what the most probable level flags."""

import pytest
import torch

from streamward.model.guard_config import PUBLISHED_PROMPT_CATEGORIES, PUBLISHED_RISK_LEVELS, SideLabels
from streamward.schema import RiskLevel, Side
from streamward.train.operating_point import Aim
from streamward.train.risk_offsets import Caps, ModeTarget, find_offsets
from streamward.train.scoring import RowLogits

LABELS = SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_PROMPT_CATEGORIES)  # Safe, Unsafe, Controversial
LEVELS = (RiskLevel.SAFE, RiskLevel.UNSAFE, RiskLevel.CONTROVERSIAL)


def row(index: int, logits_nR: torch.Tensor, level: RiskLevel) -> RowLogits:
    levels_n = torch.full((len(logits_nR),), LEVELS.index(level))
    return RowLogits(index, Side.RESPONSE, logits_nR, levels_n, torch.ones(len(logits_nR)), level)


def random_rows(count: int, *, num_tokens: int) -> list[RowLogits]:
    """Rows whose logits lean towards their level, with noise."""
    generator = torch.Generator().manual_seed(count)
    rows = []
    for index in range(count):
        level = index % 3
        lean = torch.zeros(3)
        lean[level] = 1.5
        rows.append(row(index, lean + torch.randn(num_tokens, 3, generator=generator), LEVELS[level]))
    return rows


def levels_of(row: RowLogits, offsets: tuple[float, ...]) -> list[RiskLevel]:
    return [LEVELS[index] for index in (row.logits_nR + torch.tensor(offsets)).argmax(dim=1).tolist()]


def holds(levels: list[RiskLevel], wanted: set[RiskLevel], *, run: int) -> bool:
    return any(set(levels[start : start + run]) <= wanted for start in range(len(levels) - run + 1))


@pytest.mark.parametrize("aim", ["f1", "recall"])
@pytest.mark.parametrize(("run", "num_tokens"), [(1, 1), (2, 6)])
def test_rates_are_kept_by_the_most_probable_level(run: int, num_tokens: int, aim: Aim) -> None:
    rows = random_rows(600, num_tokens=num_tokens)
    safe = torch.tensor([row.level is RiskLevel.SAFE for row in rows])
    unsafe = torch.tensor([row.level is RiskLevel.UNSAFE for row in rows])
    found = find_offsets(
        rows,
        LABELS,
        run=run,
        strict=ModeTarget(~safe, [Caps(safe, 0.10)], aim),
        loose=ModeTarget(unsafe, [Caps(safe, 0.02)], aim),
    )
    assert found is not None
    levels = [levels_of(row, found.offsets) for row in rows]
    risky = {RiskLevel.UNSAFE, RiskLevel.CONTROVERSIAL}
    strict = torch.tensor([holds(each, risky, run=run) for each in levels])
    loose = torch.tensor([holds(each, {RiskLevel.UNSAFE}, run=run) for each in levels])
    assert int((strict & safe).sum()) <= 0.10 * int(safe.sum())
    assert int((loose & safe).sum()) <= 0.02 * int(safe.sum())
    assert int((strict & ~safe).sum()) == found.strict.true_positives
    assert int((loose & unsafe).sum()) == found.loose.true_positives
    assert found.strict.recall > 0.3
    assert found.loose.recall > 0.2


@pytest.mark.parametrize(("certainty", "flags_nothing"), [(0.0, True), (1000.0, False)])
def test_rows_that_cannot_be_told_apart_are_not_flagged_or_have_no_offsets(
    certainty: float, flags_nothing: bool
) -> None:
    logits = torch.tensor([[0.0, certainty, 0.0]])
    rows = [row(0, logits, RiskLevel.SAFE), row(1, logits, RiskLevel.UNSAFE)]
    safe = torch.tensor([True, False])
    target = ModeTarget(~safe, [Caps(safe, 0.5)], "f1")
    found = find_offsets(rows, LABELS, run=1, strict=target, loose=target)
    assert (found is not None) is flags_nothing
    assert found is None or not found.strict_N.any()
