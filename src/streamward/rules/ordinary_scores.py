"""Scores of ordinary texts by the heads of a rule, and the gate that keeps the rule silent at most of them."""

# Shapes: M rows of all texts; N texts; F features.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.rules.features import PooledText, inputs
from streamward.rules.fit import SIDE_LEVELS, FittedRule
from streamward.rules.probe import GATE_MIX, Floats

_NONE = -1e9
_OPEN = -10.0  # a gate that every text passes


@dataclass(frozen=True)
class OrdinaryScores:
    """Scores of both heads at rows of ordinary texts.

    Attributes:
        violation: [M].
        gate_scores: [M].
        starts: First row of each text, [N].
    """

    violation: Floats
    gate_scores: Floats
    starts: NDArray[np.intp]

    def gate(self, threshold: float, rate: float) -> float:
        """Return the lowest gate at which a rule fires at no more than a share of the texts.

        Args:
            threshold: Threshold of the head that tells violations from look-alikes.
            rate: The share.
        """
        if not len(self.starts):
            return 0.0
        peaks = np.maximum.reduceat(np.where(self.violation >= threshold, self.gate_scores, _NONE), self.starts)
        highest = np.sort(peaks)[::-1]
        limit = float(highest[min(int(rate * len(peaks)), len(highest) - 1)])
        return limit + 1e-4 if limit > _NONE else _OPEN

    def num_fired(self, violation: float, gate: float) -> int:
        """Return the number of texts with a row at which both heads reach their thresholds."""
        if not len(self.starts):
            return 0
        over = (self.violation >= violation) & (self.gate_scores >= gate)
        return int(np.maximum.reduceat(over, self.starts).sum())


@dataclass(frozen=True)
class OrdinaryInputs:
    """Inputs of both heads from ordinary texts, put together once for all rules.

    Attributes:
        violation: [M, F].
        gate: [M, F].
        levels: Level of the side of each row, [M].
        starts: First row of each text, [N].
    """

    violation: Floats
    gate: Floats
    levels: Floats
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, texts: Sequence[PooledText]) -> "OrdinaryInputs":
        """Put together the rows of texts that are scored."""
        if not texts:
            none = np.zeros((0, 1), np.float32)
            return cls(none, none, none[:, 0], np.zeros(0, np.intp))
        rows = [text.rows[text.first :] for text in texts]
        starts = np.cumsum([0, *(len(each) for each in rows[:-1])])
        joined = np.concatenate(rows)
        levels = np.repeat([SIDE_LEVELS[text.side] for text in texts], [len(each) for each in rows]).astype(np.float32)
        return cls(inputs(joined, is_gate=False), inputs(joined, is_gate=True), levels, starts.astype(np.intp))

    def scores(self, rule: FittedRule) -> OrdinaryScores:
        """Return the scores of a rule."""
        if not len(self.starts):
            return OrdinaryScores(np.zeros(0, np.float32), np.zeros(0, np.float32), self.starts)
        violation = rule.violation.score(self.violation) - self.levels
        gate = rule.gate.score(self.gate) + np.float32(GATE_MIX) * violation
        return OrdinaryScores(violation, gate, self.starts)
