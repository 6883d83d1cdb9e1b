"""Pooled hidden states: what the linear heads of a rule read, and which rows of them they are taught from."""

# Shapes: T tokens; P pools; L taps; D hidden size; M rows.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.rules.probe import CHANNELS, WARM_TOKENS, Floats
from streamward.rules.scoring import normalized, pool_sums, running_sums
from streamward.schema import Side

NUM_POOLS = len(CHANNELS)
"""Averages of which rows are made: one for each channel, that over the whole text last."""
_SCALES = (1.6, 1.6, 1.6)
"""Factors of the inputs of each channel: the larger, the less its weights are held back."""
_NEGATIVE_STRIDE = 6
_POSITIVE_OFFSETS = (5, 8, 11, 14)
_GATE_POSITIVE_OFFSETS = (4, 10)


@dataclass(frozen=True)
class PooledText:
    """One text as the heads see it.

    Attributes:
        side: Side it is judged on.
        rows: [T, P, L, D], float32 or float16.
        violates: Whether it breaks the rule.
        start: First token that does; None if that is not known.
        end: Last token of the sentence that does, where the start is known.
        first: First row that is scored: rows before it are averages over too few tokens.
    """

    side: Side
    rows: NDArray[np.floating]
    violates: bool = False
    start: int | None = None
    first: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and standard deviation of hidden states of ordinary traffic on one side, [L, D] each."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, states: NDArray[np.floating]) -> "Standard":
        """Measure them over tokens, [T, L, D]."""
        values = states.astype(np.float32)
        deviation: Floats = values.std(axis=0) + np.float32(1e-3)
        return cls(values.mean(axis=0), deviation)


def pool(states: NDArray[np.floating], standard: Standard, side: Side, *, kept: Sequence[int] | None = None) -> Floats:
    """Return the averages of normalised states that each channel reads after every token, [T, P, L, D].

    Args:
        states: Outputs of the taps, [T, L, D].
        standard: Means and scales of the side.
        side: The side.
        kept: Tokens after which they are returned; all by default.
    """
    num_tokens, num_taps, size = states.shape
    values = states.astype(np.float32)
    x = normalized([values[:, tap] for tap in range(num_taps)], standard.mean, standard.deviation)
    sums, counts = running_sums(x), np.arange(num_tokens) if kept is None else np.array(kept, np.intp)
    parts = [pool_sums(sums, counts + 1, channel, side) for channel in CHANNELS]
    return np.stack(parts, axis=1).reshape(len(counts), NUM_POOLS, num_taps, size)


def first_row(side: Side, num_tokens: int) -> int:
    """Return the first row of a text that is scored: the last of a prompt, one behind the warm-up of a response."""
    return num_tokens - 1 if side is Side.PROMPT else min(WARM_TOKENS, num_tokens - 1)


def inputs(rows: NDArray[np.floating], *, is_gate: bool) -> Floats:
    """Return what one of the two heads reads, [M, features], from rows [M, P, L, D]."""
    parts = [
        rows[:, index, tap].astype(np.float32) * np.float32(_SCALES[index])
        for index, channel in enumerate(CHANNELS)
        if channel.is_gate == is_gate
        for tap in range(rows.shape[2])
    ]
    joined: Floats = np.concatenate(parts, axis=1)
    return joined


def channel_weights(weights: Floats, shape: tuple[int, int], *, is_gate: bool) -> Floats:
    """Return weights over `inputs` as weights of the channels, [C, L, D]; zero for those of the other head.

    Args:
        weights: Weights of one head.
        shape: Taps and hidden size.
        is_gate: Which head.
    """
    result = np.zeros((len(CHANNELS), *shape), np.float32)
    position = 0
    for index, channel in enumerate(CHANNELS):
        if channel.is_gate == is_gate:
            for tap in range(shape[0]):
                result[index, tap] = weights[position : position + shape[1]] * np.float32(_SCALES[index])
                position += shape[1]
    return result


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A row that a head is taught from, with its share of the text's weight."""

    index: int
    is_positive: bool
    weight: float


def violation_rows(text: PooledText, *, early_weight: float) -> list[TrainingRow]:
    """Return the rows of an example that teach to tell violations from allowed look-alikes.

    Args:
        text: An example or a counter-example.
        early_weight: Weight of what stands before the violation, where its start is known.
    """
    last = len(text.rows) - 1
    if text.side is Side.PROMPT:
        return [TrainingRow(last, text.violates, 1.0)]
    if not text.violates:
        return _equal([*range(text.first, last, _NEGATIVE_STRIDE), last], False, 1.0)
    if text.start is None:
        return _equal([last], True, 1.0)
    start, end = text.start, last if text.end is None else text.end
    rows = _equal([*(min(end, start + offset) for offset in _POSITIVE_OFFSETS), end], True, 1.0)
    early = [*range(text.first, start - 1, _NEGATIVE_STRIDE)]
    return rows + (_equal(early, False, early_weight) if early else [])


def matter_rows(text: PooledText) -> list[int]:
    """Return the rows of an example that show what the rule is about."""
    last = len(text.rows) - 1
    if text.side is Side.PROMPT:
        return [last]
    if text.violates and text.start is not None:
        return sorted({min(last, text.start + offset) for offset in _GATE_POSITIVE_OFFSETS} | {last})
    return sorted({min(16, last), last // 2, last})


def _equal(indices: Sequence[int], is_positive: bool, weight: float) -> list[TrainingRow]:
    distinct = sorted(set(indices))
    return [TrainingRow(index, is_positive, weight / len(distinct)) for index in distinct]
