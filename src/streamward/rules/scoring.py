"""Scores of taught rules: per token in the guard's own forward pass, then pooled over the tokens of one text."""

# Shapes: n tokens; L taps; D hidden size; N rules; C channels.

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamward.rules.probe import CHANNELS, WARM_TOKENS, ProbeBank, RuleProbe
from streamward.schema import Side

Floats = NDArray[np.float32]
_EPS = 1e-6
_NUM_CHANNELS = len(CHANNELS)


def normalized(hidden: Sequence[Floats], means: Floats, deviations: Floats) -> Floats:
    """Return hidden states of n tokens, standardised per dimension and of unit length per tap, [n, L * D].

    Args:
        hidden: For each tap, [n, D].
        means: Of ordinary traffic, [L, D].
        deviations: Likewise, standard deviations.
    """
    parts = []
    for tap, states in enumerate(hidden):
        x = (states - means[tap]) / deviations[tap]
        norm = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float32))
        parts.append(x / (norm + _EPS)[:, None])
    return np.concatenate(parts, axis=1)


class ProbeScorer:
    """A `TokenProbe` of the engine: N * C linear scores per token, in the order of the bank's rules."""

    def __init__(self, bank: ProbeBank) -> None:
        """Prepare the matrices of a bank."""
        self.name = bank.digest
        self.layers = bank.taps
        self.sides = frozenset(side for rule in bank.rules for side in rule.sides)
        self.num_scores = len(bank.rules) * _NUM_CHANNELS
        self._means, self._deviations = bank.means, bank.deviations
        stacked = np.stack([rule.weights.reshape(_NUM_CHANNELS, -1) for rule in bank.rules])
        self._weights = np.ascontiguousarray(stacked.reshape(self.num_scores, -1).T, dtype=np.float32)

    def score(self, side: Side, hidden: Sequence[Floats]) -> Floats:
        """Return the scores of n tokens, [n, N * C]; each row depends on its own token only."""
        x = normalized(hidden, self._means[side], self._deviations[side])
        if not len(x):
            return np.zeros((0, self.num_scores), np.float32)
        scores: Floats = np.stack([row @ self._weights for row in x])  # by rows: sums must not depend on the others
        return scores


def pooled(scores: Floats) -> Floats:
    """Return the pooled scores after every token, [n, N, C], from those of the single tokens of one text, [n, N, C].

    An average over a window is over the tokens there are, where the text is shorter.
    """
    sums = np.cumsum(scores.astype(np.float64), axis=0)
    counts = np.arange(1, len(scores) + 1, dtype=np.float64)
    result = np.empty(scores.shape, np.float32)
    for index, channel in enumerate(CHANNELS):
        own = sums[:, :, index].copy()
        length = channel.window or len(scores)
        own[length:] -= sums[: max(0, len(scores) - length), :, index]
        result[:, :, index] = own / np.minimum(counts, length)[:, None]
    return result


def rule_score(rule: RuleProbe, pooled_nC: Floats) -> Floats:
    """Return in [0, 1] how much a text breaks a rule after each of n tokens; 0.5 where both thresholds are reached.

    The score is the smaller of two logistic functions: whether the text breaks the rule rather than being one of the
    allowed look-alikes, and whether it is on the rule's matter at all.
    """
    levels = []
    for part in (0, 1):
        chosen = [i for i, channel in enumerate(CHANNELS) if channel.is_gate == bool(part)]
        total = pooled_nC[:, chosen].sum(axis=1) + rule.biases[part]
        levels.append((total - rule.thresholds[part]) / rule.scales[part])
    margin = np.clip(np.minimum(levels[0], levels[1]), -30.0, 30.0)
    result: Floats = (1.0 / (1.0 + np.exp(-margin))).astype(np.float32)
    return result


class RuleTracker:
    """Pools the scores of the tokens of one growing text; a token costs the same however many came before."""

    def __init__(self, bank: ProbeBank, side: Side) -> None:
        """Start with no tokens."""
        self._rules = [(index, rule) for index, rule in enumerate(bank.rules) if side in rule.sides]
        self._warm = WARM_TOKENS if side is Side.RESPONSE else 0
        self._sums = [np.zeros((len(bank.rules), _NUM_CHANNELS), np.float64)]  # one more than tokens

    @property
    def num_tokens(self) -> int:
        """Tokens taken in and not dropped."""
        return len(self._sums) - 1

    def truncate(self, num_tokens: int) -> None:
        """Drop all but the first tokens."""
        del self._sums[num_tokens + 1 :]

    def add(self, scores: Floats) -> Mapping[str, float]:
        """Take in the scores of the next token, [N * C], and return the score of each rule after it.

        There are none for the first tokens of a response.
        """
        self._sums.append(self._sums[-1] + scores.reshape(-1, _NUM_CHANNELS))
        return {} if self.num_tokens <= self._warm else self._scores()

    def final(self) -> Mapping[str, float]:
        """Return the score of each rule at the end of the text; also where it has only a few tokens."""
        return self._scores() if self.num_tokens else {}

    def _scores(self) -> Mapping[str, float]:
        count = self.num_tokens
        row = np.empty((len(self._sums[0]), _NUM_CHANNELS), np.float32)
        for index, channel in enumerate(CHANNELS):
            length = min(count, channel.window or count)
            row[:, index] = (self._sums[-1][:, index] - self._sums[-1 - length][:, index]) / length
        return {rule.rule_id: float(rule_score(rule, row[index : index + 1])[0]) for index, rule in self._rules}
