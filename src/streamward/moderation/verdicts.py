"""Turns the head probabilities of the engine into verdicts."""

from collections.abc import Mapping, Sequence

import numpy as np

from streamward.engine.outputs import StepOutput
from streamward.errors import CheckpointError
from streamward.model.guard_config import GuardConfig, OperatingPoint, SideLabels
from streamward.schema import CategoryScore, RiskLevel, Side, Span, Verdict

MIN_CATEGORY_SHARE = 0.05
"""Share among the kinds of harm from which on a further category stands in a verdict."""


class VerdictReader:
    """Interprets the outputs of one side's heads."""

    def __init__(self, config: GuardConfig, side: Side) -> None:
        self._labels: SideLabels = config.labels(side)
        self._point = config.operating_points.get(side)

    @property
    def thresholds(self) -> Mapping[RiskLevel, float]:
        """The guard's own thresholds; empty if the most probable level counts."""
        point = self._point
        return {} if point is None else {RiskLevel.UNSAFE: point.unsafe, RiskLevel.CONTROVERSIAL: point.controversial}

    def read(self, output: StepOutput, *, first_position: int, spans: Sequence[Span | None]) -> list[Verdict]:
        """Return one verdict per scored token.

        Args:
            output: Scores of consecutive tokens of this side.
            first_position: Position of its first token.
            spans: Characters of each token, one for each row of the output.

        Raises:
            CheckpointError: A probability is not finite; the guard cannot judge.
        """
        if not np.isfinite(output.risk_probs).all():
            raise CheckpointError("the guard's heads gave non-finite probabilities; its weights are damaged")
        categories = output.category_probs.tolist()
        rows = zip(output.risk_probs.tolist(), categories, spans, strict=True)
        return [
            self._verdict(risk, shares, first_position + offset, span)
            for offset, (risk, shares, span) in enumerate(rows)
        ]

    def _verdict(self, risk: list[float], shares: list[float], position: int, span: Span | None) -> Verdict:
        by_level = dict(zip(self._labels.risk_levels, risk, strict=True))
        probabilities = {level: by_level.get(level, 0.0) for level in RiskLevel}
        level = level_at(probabilities, self._point)
        if level is RiskLevel.SAFE:
            return Verdict(position, level, probabilities, None, span)
        ranked = sorted(zip(shares, self._labels.categories, strict=True), key=lambda pair: -pair[0])
        categories = tuple(
            CategoryScore(category, share)
            for rank, (share, category) in enumerate(ranked)
            if rank == 0 or share >= MIN_CATEGORY_SHARE
        )
        return Verdict(position, level, probabilities, categories[0].category, span, categories)


def level_at(probabilities: Mapping[RiskLevel, float], point: OperatingPoint | None) -> RiskLevel:
    """Return the level at an operating point; without one, the most probable level."""
    if point is None:
        return max(probabilities, key=lambda level: probabilities[level])
    if probabilities[RiskLevel.UNSAFE] >= point.unsafe:
        return RiskLevel.UNSAFE
    if probabilities[RiskLevel.UNSAFE] + probabilities[RiskLevel.CONTROVERSIAL] >= point.controversial:
        return RiskLevel.CONTROVERSIAL
    return RiskLevel.SAFE
