"""The direction that violations of many rules have in common: the head of a new rule starts from it."""

# Shapes: M rows; F features.

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamward.rules.features import PooledText, inputs, violation_rows
from streamward.rules.fit import EARLY_WEIGHT, balanced
from streamward.rules.probe import Floats
from streamward.schema import Side

RIDGE = 30.0


@dataclass(frozen=True)
class LabelledRows:
    """Rows of the texts of several rules, and how much violations and allowed texts differ in each.

    Attributes:
        x: [M, F], less the average of the rule and the side they are of.
        targets: [M]: 1 for violations and -1 for others, less the average likewise.
        weights: [M].
        rules: Index of the rule of each row, [M].
    """

    x: NDArray[np.floating]
    targets: Floats
    weights: Floats
    rules: NDArray[np.int32]

    @classmethod
    def of(cls, texts: Sequence[PooledText], rules: Sequence[int]) -> "LabelledRows":
        """Take the rows that a head would be taught from.

        Args:
            texts: Texts of all rules.
            rules: Index of the rule of each.
        """
        groups: dict[tuple[int, Side], list[PooledText]] = {}
        for text, rule in zip(texts, rules, strict=True):
            groups.setdefault((rule, text.side), []).append(text)
        parts = [_group(own) for own in groups.values()]
        indices = [np.full(len(x), rule, np.int32) for (rule, _), (x, _, _) in zip(groups, parts, strict=True)]
        joined = [np.concatenate([part[place] for part in parts]) for place in range(3)]
        return cls(joined[0].astype(np.float16), joined[1], joined[2], np.concatenate(indices))


@dataclass
class CommonDirection:
    """Weights that tell violations of other rules from texts that look alike, by ridge regression.

    Attributes:
        rows: Rows of the rules.
    """

    rows: LabelledRows
    _all: tuple[Floats, Floats] | None = field(default=None, repr=False)

    def without(self, rules: frozenset[int]) -> Floats:
        """Return the weights learnt from all rules but some, [F]."""
        if self._all is None:
            self._all = self._sums(np.ones(len(self.rows.rules), np.bool_))
        gram, product = self._all
        if rules:
            own_gram, own_product = self._sums(np.isin(self.rows.rules, list(rules)))
            gram, product = gram - own_gram, product - own_product
        system = gram + np.float32(RIDGE) * np.eye(len(gram), dtype=np.float32)
        weights: Floats = np.linalg.solve(system, product).astype(np.float32)
        return weights

    def _sums(self, chosen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        x, weights = self.rows.x[chosen].astype(np.float32), self.rows.weights[chosen]
        weighted = x * weights[:, None]
        gram, product = weighted.T @ x, weighted.T @ self.rows.targets[chosen]
        return gram.astype(np.float32, copy=False), product.astype(np.float32, copy=False)


def _group(texts: Sequence[PooledText]) -> tuple[Floats, Floats, Floats]:
    chosen = [(text, row) for text in texts for row in violation_rows(text, early_weight=EARLY_WEIGHT)]
    x = inputs(np.stack([text.rows[row.index] for text, row in chosen]), is_gate=False)
    labels = np.array([1.0 if row.is_positive else -1.0 for _, row in chosen])
    weights = balanced(np.array([row.weight for _, row in chosen]), labels) * len(texts) / 2
    shares = (weights / weights.sum()).astype(np.float32)
    return x - shares @ x, (labels - shares @ labels).astype(np.float32), weights.astype(np.float32)
