"""Ridge regression in closed form: the two linear heads of a rule, from a few dozen texts."""

# Shapes: M rows; F features.

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamward.rules.features import PooledText, inputs, matter_rows, violation_rows
from streamward.rules.probe import GATE_MIX, Floats
from streamward.schema import Side

EARLY_WEIGHT = 2.0
_VIOLATION_RIDGE = 2.0
PRIOR_SHARE = 0.7
"""Share of the common direction that a rule starts from."""
SIDE_LEVELS = {Side.PROMPT: -0.05, Side.RESPONSE: 0.1}
"""Scores at which a violation is as likely as not before any threshold is chosen: a response is judged by the highest
score of many tokens, a prompt by that of one."""
_GATE_RIDGE = 0.005


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A score: the product of inputs and weights, plus a bias."""

    weights: Floats
    bias: float

    def score(self, x: NDArray[np.floating]) -> Floats:
        """Return the scores of inputs [M, F]."""
        result: Floats = x.astype(np.float32, copy=False) @ self.weights + np.float32(self.bias)
        return result


@dataclass(frozen=True, slots=True)
class FittedRule:
    """Both heads of a rule."""

    violation: LinearHead
    gate: LinearHead

    def score(self, text: PooledText) -> tuple[Floats, Floats]:
        """Return the scores of both heads at every row of a text that is scored, less the level of its side."""
        rows = text.rows[text.first :]
        violation = self.violation.score(inputs(rows, is_gate=False)) - np.float32(SIDE_LEVELS[text.side])
        return violation, self.gate.score(inputs(rows, is_gate=True)) + np.float32(GATE_MIX) * violation


@dataclass(frozen=True)
class OrdinaryRows:
    """Inputs of gates from ordinary traffic, with the inverse that every gate needs, computed once.

    Attributes:
        x: [M, F].
    """

    x: Floats

    @cached_property
    def inverse(self) -> Floats:
        """Inverse of the rows' inner products with the ridge on the diagonal, [M, M]."""
        kernel = self.x @ self.x.T
        kernel[np.diag_indices(len(kernel))] += _GATE_RIDGE * len(kernel)
        result: Floats = np.linalg.inv(kernel)
        return result


def fit(texts: Sequence[PooledText], ordinary: OrdinaryRows, *, prior: Floats | None = None) -> FittedRule:
    """Learn a rule.

    Args:
        texts: Examples and counter-examples.
        ordinary: That the gate is taught against.
        prior: Weights of the head for violations that are kept where the examples say nothing else, [F]; zero by
            default.
    """
    return FittedRule(_fit_violation(texts, prior), _fit_gate(texts, ordinary))


def _fit_violation(texts: Sequence[PooledText], prior: Floats | None) -> LinearHead:
    chosen = [(text, row) for text in texts for row in violation_rows(text, early_weight=EARLY_WEIGHT)]
    x = inputs(np.stack([text.rows[row.index] for text, row in chosen]), is_gate=False)
    labels = np.array([1.0 if row.is_positive else -1.0 for _, row in chosen])
    weights = balanced(np.array([row.weight for _, row in chosen]), labels) * len(texts) / 2
    if prior is None:
        return _ridge(x, x @ x.T, labels, weights, _VIOLATION_RIDGE)
    prior = prior * np.float32(PRIOR_SHARE)
    known = x @ prior
    rest = _ridge(x, x @ x.T, labels - known, weights, _VIOLATION_RIDGE)
    return LinearHead(rest.weights + prior, rest.bias)


def _fit_gate(texts: Sequence[PooledText], ordinary: OrdinaryRows) -> LinearHead:
    """Learn to tell a rule's matter from ordinary traffic; each of the two weighs 1.

    Ridge regression in its dual form, where the block of the ordinary rows, by far the largest, is inverted already.
    """
    rows, shares = [], []
    for text in texts:
        indices = matter_rows(text)
        rows += [text.rows[index] for index in indices]
        shares += [1.0 / len(indices) / len(texts)] * len(indices)
    own = inputs(np.stack(rows), is_gate=True)
    across = own @ ordinary.x.T
    reduced = across @ ordinary.inverse
    block = own @ own.T - reduced @ across.T
    block[np.diag_indices(len(block))] += _GATE_RIDGE / np.array(shares, np.float32)

    def solve(first: float, second: float) -> tuple[Floats, Floats]:
        """Solve for targets of the rule's own rows and of ordinary ones."""
        mine = np.linalg.solve(block, first - second * reduced.sum(axis=1))
        return mine, second * ordinary.inverse.sum(axis=1) - reduced.T @ mine

    labels, ones = solve(1.0, -1.0), solve(1.0, 1.0)
    bias = (labels[0].sum() + labels[1].sum()) / (ones[0].sum() + ones[1].sum())
    mine, theirs = labels[0] - bias * ones[0], labels[1] - bias * ones[1]
    weights: Floats = (own.T @ mine + ordinary.x.T @ theirs).astype(np.float32)
    return LinearHead(weights, float(bias))


def balanced(weights: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights of which each label's sum to 1."""
    result = weights.copy()
    for label in (-1.0, 1.0):
        total = result[labels == label].sum()
        result[labels == label] /= total if total > 0 else 1.0
    return result


def _ridge(
    x: Floats, kernel: Floats, targets: NDArray[np.float64], weights: NDArray[np.float64], ridge: float
) -> LinearHead:
    """Solve weighted ridge regression with a free bias, in its dual form: there are fewer rows than features.

    Args:
        x: Inputs, [M, F].
        kernel: Their inner products, [M, M].
        targets: [M].
        weights: Weights of the rows, [M].
        ridge: Penalty on the squared weights of the head.
    """
    shares = weights / weights.sum()
    means = kernel @ shares  # of each row with the average row
    centered = kernel - means[:, None] - means[None] + shares @ means
    middle = float(shares @ targets)
    roots = np.sqrt(weights)
    system = centered * roots[:, None] * roots[None]
    system[np.diag_indices(len(system))] += ridge
    dual = roots * np.linalg.solve(system, (targets - middle) * roots)
    dual -= shares * dual.sum()
    solution = (x.T @ dual.astype(np.float32)).astype(np.float32)
    return LinearHead(solution, middle - float(shares @ (x @ solution)))
