"""Scores of taught rules: per token in the guard's own forward pass, then pooled over the tokens of one text."""

# Shapes: n tokens; L taps; D hidden size; N rules; C channels.

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamward.rules.probe import (
    CHANNELS,
    CONTRAST,
    CONTRAST_LAG,
    CONTRAST_PRIOR,
    GATE_MIX,
    WARM_TOKENS,
    Channel,
    ProbeBank,
    RuleProbe,
)
from streamward.schema import Side

Floats = NDArray[np.float32]
_EPS = 1e-6
_NUM_CHANNELS = len(CHANNELS)
_WINDOWS = np.array([channel.window or np.iinfo(np.intp).max for channel in CHANNELS], np.intp)
_EACH_CHANNEL = np.arange(_NUM_CHANNELS)
_FIRST_OF_PART = [0, [channel.is_gate for channel in CHANNELS].index(True)]  # look-alikes come first, gates behind
_CONTRASTS = [index for index, channel in enumerate(CHANNELS) if channel.is_contrast]
_BLOCK = 16
_CAPACITY = 64


def normalized(hidden: Sequence[Floats], means: Floats, deviations: Floats) -> Floats:
    """Return hidden states of n tokens, standardised per dimension and of unit length per tap, [n, L * D].

    Args:
        hidden: For each tap, [n, D].
        means: Means of ordinary traffic, [L, D].
        deviations: Likewise, standard deviations.
    """
    return _normalized(hidden, means.reshape(-1), 1.0 / deviations.reshape(-1))


def _normalized(hidden: Sequence[Floats], means: Floats, inverses: Floats) -> Floats:
    """Normalise with means and inverse deviations of all taps side by side, [L * D]: few operations on large arrays."""
    x: Floats = np.concatenate(hidden, axis=1)
    x -= means
    x *= inverses
    taps = x.reshape(len(x), len(hidden), -1)
    taps *= (1.0 / (np.sqrt(np.einsum("nld,nld->nl", taps, taps)) + np.float32(_EPS)))[:, :, None]
    return x


class ProbeScorer:
    """A `TokenProbe` of the engine: N * C linear scores per token, in the order of the bank's rules."""

    def __init__(self, bank: ProbeBank) -> None:
        """Prepare the matrices of a bank."""
        self.name = bank.digest
        self.layers = bank.taps
        self.sides = frozenset(side for rule in bank.rules for side in rule.sides)
        self.num_scores = len(bank.rules) * _NUM_CHANNELS
        self._means = {side: mean.reshape(-1) for side, mean in bank.means.items()}
        self._inverses = {side: 1.0 / deviation.reshape(-1) for side, deviation in bank.deviations.items()}
        stacked = np.stack([rule.weights.reshape(_NUM_CHANNELS, -1) for rule in bank.rules])
        self._weights = np.ascontiguousarray(stacked.reshape(self.num_scores, -1).T, dtype=np.float32)

    def score(self, side: Side, hidden: Sequence[Floats]) -> Floats:
        """Return the scores of n tokens, [n, N * C]; each row depends on its own token only."""
        x = _normalized(hidden, self._means[side], self._inverses[side])
        found = np.empty((len(x), self.num_scores), np.float32)
        block = np.zeros((_BLOCK, x.shape[1]), np.float32)
        for start in range(0, len(x), _BLOCK):  # blocks of one size: a token's sums must not depend on the others
            rows = x[start : start + _BLOCK]
            block[: len(rows)] = rows
            found[start : start + len(rows)] = (block @ self._weights)[: len(rows)]
        return found


def earlier(counts: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return what a contrast takes off after so many tokens of a response, [n]: a share of the sum of the first ones.

    Returns:
        The number of the first ones, [n], and the share of their sum, [n].
    """
    before = np.maximum(counts - CONTRAST_LAG, 0)
    return before, CONTRAST / (before + CONTRAST_PRIOR)


def pooled(scores: Floats, side: Side) -> Floats:
    """Return the pooled scores after every token, [n, N, C], from those of the single tokens of one text, [n, N, C].

    An average over a window is over the tokens there are, where the text is shorter.
    """
    parts = [pool_sums(scores[:, :, index], channel, side) for index, channel in enumerate(CHANNELS)]
    result: Floats = np.stack(parts, axis=2)
    return result


def pool_sums(values: NDArray[np.floating], channel: Channel, side: Side) -> Floats:
    """Return values of the tokens of one text, [n, F], as a channel pools them after every token, [n, F]."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    counts = np.arange(1, len(values) + 1)
    lengths = np.minimum(counts, channel.window or len(values))
    own = (sums[counts] - sums[counts - lengths]) / lengths[:, None]
    if channel.is_contrast and side is Side.RESPONSE:
        before, share = earlier(counts)
        own -= sums[before] * share[:, None]
    result: Floats = own.astype(np.float32)
    return result


def rule_score(rule: RuleProbe, side: Side, pooled_nC: Floats) -> Floats:
    """Return in [0, 1] how much a text breaks a rule after each of n tokens; 0.5 where both thresholds are reached.

    The score is the smaller of two logistic functions: whether the text breaks the rule rather than being one of the
    allowed look-alikes, and whether it is on the rule's matter at all.
    """
    totals = []
    for part in (0, 1):
        chosen = [i for i, channel in enumerate(CHANNELS) if channel.is_gate == bool(part)]
        totals.append(pooled_nC[:, chosen].sum(axis=1) + rule.biases[part])
    totals[1] += GATE_MIX * totals[0]
    levels = [(totals[part] - rule.thresholds[side][part]) / rule.scales[part] for part in (0, 1)]
    margin = np.clip(np.minimum(levels[0], levels[1]), -30.0, 30.0)
    result: Floats = (1.0 / (1.0 + np.exp(-margin))).astype(np.float32)
    return result


class RuleTracker:
    """Pools the scores of the tokens of one growing text; a token costs the same however many came before."""

    def __init__(self, bank: ProbeBank, side: Side, rule_ids: Collection[str] | None = None) -> None:
        """Start with no tokens.

        Args:
            bank: Taught rules.
            side: Side of the text.
            rule_ids: Rules that are scored; by default all of the side.
        """
        chosen = [
            (index, rule)
            for index, rule in enumerate(bank.rules)
            if side in rule.sides and (rule_ids is None or rule.rule_id in rule_ids)
        ]
        self._rule_ids = [rule.rule_id for _, rule in chosen]
        self._indices = np.array([index for index, _ in chosen], np.intp)
        violation = [rule.thresholds[side][0] - rule.biases[0] for _, rule in chosen]
        gate = [rule.thresholds[side][1] - rule.biases[1] - GATE_MIX * rule.biases[0] for _, rule in chosen]
        self._thresholds = np.array([violation, gate])
        self._scales = np.array([[rule.scales[i] for _, rule in chosen] for i in (0, 1)])
        self._num_rules = len(bank.rules)
        self._is_response = side is Side.RESPONSE
        self._warm = WARM_TOKENS if side is Side.RESPONSE else 0
        self._sums = np.zeros((_CAPACITY, self._num_rules, _NUM_CHANNELS), np.float64)  # one more than tokens
        self._num_tokens = 0

    @property
    def rule_ids(self) -> list[str]:
        """Ids of the rules that are scored, in the order of the columns of their scores."""
        return self._rule_ids

    @property
    def num_tokens(self) -> int:
        """Tokens taken in and not dropped."""
        return self._num_tokens

    def truncate(self, num_tokens: int) -> None:
        """Drop all but the first tokens."""
        self._num_tokens = min(self._num_tokens, num_tokens)

    def extend(self, scores: Floats) -> NDArray[np.float64]:
        """Take in the scores of the next n tokens, [n, N * C]; return the score of each rule after each, [n, rules].

        The first tokens of a response have the score 0.
        """
        start, end = self._num_tokens, self._num_tokens + len(scores)
        if end >= len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros((max(end, len(self._sums)), *self._sums.shape[1:]))])
        values = scores.reshape(-1, self._num_rules, _NUM_CHANNELS).astype(np.float64)
        values[0] += self._sums[start]
        np.cumsum(values, axis=0, out=self._sums[start + 1 : end + 1])
        self._num_tokens = end
        found = self._scores(np.arange(start + 1, end + 1))
        found[: max(0, self._warm - start)] = 0.0
        return found

    def final(self) -> Mapping[str, float]:
        """Return the score of each rule at the end of the text; also where it has only a few tokens."""
        if not self._num_tokens:
            return {}
        (last,) = self._scores(np.array([self._num_tokens]))
        return dict(zip(self._rule_ids, last.tolist(), strict=True))

    def _scores(self, counts: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the score of each rule after so many tokens, [n, rules]."""
        lengths = np.minimum(counts[:, None], _WINDOWS)
        sums = self._sums[counts].transpose(0, 2, 1) - self._sums[counts[:, None] - lengths, :, _EACH_CHANNEL]
        sums /= lengths[:, :, None]
        if self._is_response:
            before, share = earlier(counts)
            sums[:, _CONTRASTS] -= self._sums[before].transpose(0, 2, 1)[:, _CONTRASTS] * share[:, None, None]
        totals = np.add.reduceat(sums, _FIRST_OF_PART, axis=1)
        totals[:, 1] += GATE_MIX * totals[:, 0]
        margins = (totals[:, :, self._indices] - self._thresholds) / self._scales
        least = np.minimum(np.maximum(margins.min(axis=1), -30.0), 30.0)
        result: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-least))
        return result
