"""Scores of taught rules: per token in the guard's own forward pass, then pooled over the tokens of one text."""

# Shapes: n tokens; L taps; D hidden size; N rules; C channels.

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

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
_PADDING = max(CONTRAST_LAG, *(channel.window for channel in CHANNELS))
"""Rows of zeros before the sums of a text, so that a window over its beginning needs no case of its own."""
_OFFSETS = tuple(sorted({0, CONTRAST_LAG, *(channel.window for channel in CHANNELS)}))
"""Distances, in tokens, of the running sums that are pooled after a token."""
_BACK = np.array(_OFFSETS)
_BLOCK = 8
_GROUP = 4 * _BLOCK
_WIDTH_STEP = 16  # products of other widths take much longer
_CAPACITY = 64


def normalized(hidden: Sequence[Floats], means: Floats, deviations: Floats) -> Floats:
    """Return hidden states of n tokens, standardised per dimension and of unit length per tap, [n, L * D].

    Args:
        hidden: For each tap, [n, D].
        means: Means of ordinary traffic, [L, D].
        deviations: Likewise, standard deviations.
    """
    states = np.empty((len(hidden), *hidden[0].shape), np.float32)
    states /= _standardise(hidden, means[:, None], 1.0 / deviations[:, None], states)
    x: Floats = np.concatenate(list(states), axis=1)
    return x


def _standardise(hidden: Sequence[Floats], means: Floats, inverses: Floats, states_LnD: Floats) -> Floats:
    """Write standardised states, with means and inverse deviations [L, 1, D]; return their lengths, [L, n, 1]."""
    for tap, own in enumerate(hidden):
        np.subtract(own, means[tap], out=states_LnD[tap])
    states_LnD *= inverses
    lengths: Floats = np.matmul(states_LnD[:, :, None], states_LnD[:, :, :, None])[:, :, :, 0]
    np.sqrt(lengths, out=lengths)
    lengths += np.float32(_EPS)
    return lengths


class ProbeScorer:
    """A `TokenProbe` of the engine: N * C linear scores per token, in the order of the bank's rules.

    A scorer belongs to one engine: it keeps the array that it computes in.
    """

    def __init__(self, bank: ProbeBank) -> None:
        """Prepare the matrices of a bank."""
        self.name = bank.digest
        self.layers = bank.taps
        self.sides = frozenset(side for rule in bank.rules for side in rule.sides)
        self.num_scores = len(bank.rules) * _NUM_CHANNELS
        self._means = {side: mean[:, None] for side, mean in bank.means.items()}
        self._inverses = {side: 1.0 / deviation[:, None] for side, deviation in bank.deviations.items()}
        width = -(-self.num_scores // _WIDTH_STEP) * _WIDTH_STEP
        stacked = [rule.weights.transpose(1, 2, 0) for rule in bank.rules]
        padding = np.zeros((*bank.means[Side.PROMPT].shape, width - self.num_scores), np.float32)
        self._weights_L1DK = np.ascontiguousarray(np.concatenate([*stacked, padding], axis=2)[:, None], np.float32)
        buffer = np.zeros(len(bank.taps) * _GROUP * padding.shape[1], np.float32)
        shapes = [(len(bank.taps), count, _BLOCK, padding.shape[1]) for count in range(_GROUP // _BLOCK + 1)]
        self._states = [buffer[: math.prod(shape)].reshape(shape) for shape in shapes]

    def score(self, side: Side, hidden: Sequence[Floats]) -> Floats:
        """Return the scores of n tokens, [n, N * C]; each row depends on its own token only."""
        if len(hidden[0]) <= _GROUP:
            return self._score(side, hidden)
        starts = range(0, len(hidden[0]), _GROUP)  # as many at a time as the CPU's cache holds
        return np.concatenate([self._score(side, [own[start : start + _GROUP] for own in hidden]) for start in starts])

    def _score(self, side: Side, hidden: Sequence[Floats]) -> Floats:
        # Rows behind the last token are left as they are: they cost the same, and nobody reads what comes of them.
        num_tokens, num_blocks = len(hidden[0]), -(-len(hidden[0]) // _BLOCK)
        blocks = self._states[num_blocks]  # of one size: a token's sums must not depend on the others
        rows = blocks.reshape(len(blocks), num_blocks * _BLOCK, -1)
        lengths = _standardise(hidden, self._means[side], self._inverses[side], rows[:, :num_tokens])
        products = np.matmul(blocks, self._weights_L1DK)
        scores = products.reshape(len(blocks), num_blocks * _BLOCK, -1)[:, :num_tokens]
        scores /= lengths  # once for each score instead of once for each dimension
        found: Floats = np.add.reduce(scores, axis=0)[:, : self.num_scores]
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
    counts = np.arange(1, len(scores) + 1)
    parts = [pool_sums(running_sums(scores[:, :, i]), counts, channel, side) for i, channel in enumerate(CHANNELS)]
    result: Floats = np.stack(parts, axis=2)
    return result


def running_sums(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the sums of the first 0 to n values of the tokens of one text, [n + 1, F], from the values, [n, F]."""
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums


def pool_sums(sums: NDArray[np.float64], counts: NDArray[np.intp], channel: Channel, side: Side) -> Floats:
    """Return what a channel pools after each of some tokens of one text, [m, F].

    Args:
        sums: From `running_sums`.
        counts: Tokens up to each of them, itself among them, [m].
        channel: The channel.
        side: Side of the text.
    """
    lengths = np.minimum(counts, channel.window or len(sums))
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
        columns = np.array([[index * _NUM_CHANNELS + i for index, _ in chosen] for i in range(_NUM_CHANNELS)], np.intp)
        self._columns = columns.reshape(-1)  # of the first channel of all rules, then of the second, and so on
        violation = [rule.thresholds[side][0] - rule.biases[0] for _, rule in chosen]
        gate = [rule.thresholds[side][1] - rule.biases[1] - GATE_MIX * rule.biases[0] for _, rule in chosen]
        self._units = -1.0 / np.array([[rule.scales[i] for _, rule in chosen] for i in (0, 1)]).reshape(2, -1)
        self._levels = -np.array([violation, gate]).reshape(2, -1) * self._units
        self._side = side
        self._warm = WARM_TOKENS if side is Side.RESPONSE else 0
        self._pooling = _pooling(_CAPACITY, side)
        self._sums = np.zeros((_PADDING + _CAPACITY, len(self._columns)), np.float64)
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
        if end > len(self._pooling):
            self._pooling = _pooling(1 << (end - 1).bit_length(), self._side)
            more = np.zeros((_PADDING + len(self._pooling) - len(self._sums), len(self._columns)))
            self._sums = np.concatenate([self._sums, more])
        sums = self._sums[_PADDING + start - 1 : _PADDING + end]
        sums[1:] = scores[:, self._columns]
        np.add.accumulate(sums, axis=0, out=sums)
        self._num_tokens = end
        found = self._scores(start, end)
        if start < self._warm:
            found[: self._warm - start] = 0.0
        return found

    def final(self) -> Mapping[str, float]:
        """Return the score of each rule at the end of the text; also where it has only a few tokens."""
        if not self._num_tokens:
            return {}
        (last,) = self._scores(self._num_tokens - 1, self._num_tokens)
        return dict(zip(self._rule_ids, last.tolist(), strict=True))

    def _scores(self, start: int, end: int) -> NDArray[np.float64]:
        """Return the score of each rule after every token from one to before another, [n, rules]."""
        rows = np.arange(_PADDING + start, _PADDING + end)[:, None] - _BACK
        sums = self._sums[rows].reshape(end - start, len(_OFFSETS) * _NUM_CHANNELS, -1)
        margins = np.matmul(self._pooling[start:end], sums)
        margins *= self._units
        margins += self._levels
        most = np.minimum(np.maximum.reduce(margins, axis=1), 30.0)
        np.exp(np.maximum(most, -30.0, out=most), out=most)
        most += 1.0
        result: NDArray[np.float64] = np.reciprocal(most, out=most)
        return result


@lru_cache(maxsize=16)
def _pooling(num_tokens: int, side: Side) -> NDArray[np.float64]:
    """Return the matrices that pool the sums of a text after each of so many tokens, [tokens, 2, offsets * C].

    Their product with the sums [offsets * C, N] as many tokens back as _OFFSETS says are the totals of both heads.
    """
    counts = np.arange(1, num_tokens + 1)
    matrices = np.zeros((num_tokens, 2, len(_OFFSETS), _NUM_CHANNELS))
    for index, channel in enumerate(CHANNELS):
        part = matrices[:, int(channel.is_gate), :, index]
        shares = 1.0 / np.minimum(counts, channel.window or num_tokens)
        part[:, 0] += shares
        if channel.window:
            part[:, _OFFSETS.index(channel.window)] -= shares
        if channel.is_contrast and side is Side.RESPONSE:
            part[:, _OFFSETS.index(CONTRAST_LAG)] -= earlier(counts)[1]
    matrices[:, 1] += GATE_MIX * matrices[:, 0]
    return matrices.reshape(num_tokens, 2, -1)
