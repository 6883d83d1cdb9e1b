"""Ridge regression in closed form: the two linear heads of a rule, from a few dozen texts."""

# Shapes: M rows; F features.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.rules.features import PooledText, inputs, matter_rows, violation_rows
from streamward.rules.probe import Floats

EARLY_WEIGHT = 0.5
_VIOLATION_RIDGE = 0.3
_GATE_RIDGE = 0.3


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A score: the product of inputs and weights, plus a bias."""

    weights: Floats
    bias: float

    def score(self, rows: NDArray[np.floating], *, is_gate: bool) -> Floats:
        """Return the scores of rows [M, P, L, D]."""
        result: Floats = inputs(rows, is_gate=is_gate) @ self.weights + np.float32(self.bias)
        return result


@dataclass(frozen=True, slots=True)
class FittedRule:
    """Both heads of a rule."""

    violation: LinearHead
    gate: LinearHead

    def score(self, text: PooledText) -> tuple[Floats, Floats]:
        """Return the scores of both heads at every row of a text that is scored."""
        rows = text.rows[text.first :]
        return self.violation.score(rows, is_gate=False), self.gate.score(rows, is_gate=True)


def fit(texts: Sequence[PooledText], ordinary: Floats) -> FittedRule:
    """Learn a rule.

    Args:
        texts: Examples and counter-examples.
        ordinary: What the gate reads of rows of ordinary traffic, [M, F].
    """
    return FittedRule(_fit_violation(texts), _fit_gate(texts, ordinary))


def _fit_violation(texts: Sequence[PooledText]) -> LinearHead:
    chosen = [(text, row) for text in texts for row in violation_rows(text, early_weight=EARLY_WEIGHT)]
    x = inputs(np.stack([text.rows[row.index] for text, row in chosen]), is_gate=False)
    labels = np.array([1.0 if row.is_positive else -1.0 for _, row in chosen])
    weights = np.array([row.weight for _, row in chosen])
    return _ridge(x, labels, _balanced(weights, labels) * len(texts) / 2, _VIOLATION_RIDGE)


def _fit_gate(texts: Sequence[PooledText], ordinary: Floats) -> LinearHead:
    rows, weights = [], []
    for text in texts:
        indices = matter_rows(text)
        rows += [text.rows[index] for index in indices]
        weights += [1.0 / len(indices)] * len(indices)
    x = np.concatenate([inputs(np.stack(rows), is_gate=True), ordinary])
    labels = np.concatenate([np.ones(len(rows)), -np.ones(len(ordinary))])
    shares = np.concatenate([np.array(weights), np.ones(len(ordinary))])
    return _ridge(x, labels, _balanced(shares, labels) * len(texts) / 2, _GATE_RIDGE)


def _balanced(weights: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights of which each label's sum to 1."""
    result = weights.copy()
    for label in (-1.0, 1.0):
        total = result[labels == label].sum()
        result[labels == label] /= total if total > 0 else 1.0
    return result


def _ridge(x: Floats, labels: NDArray[np.float64], weights: NDArray[np.float64], ridge: float) -> LinearHead:
    """Solve weighted ridge regression with a free bias, in its dual form: there are fewer rows than features."""
    total = weights.sum()
    center = (weights[:, None] * x).sum(axis=0) / total
    middle = float((weights * labels).sum() / total)
    roots = np.sqrt(weights)
    rows = (x - center) * roots[:, None]
    kernel = rows @ rows.T + ridge * np.eye(len(rows))
    solution = rows.T @ np.linalg.solve(kernel, (labels - middle) * roots)
    return LinearHead(solution.astype(np.float32), middle - float(center @ solution))
