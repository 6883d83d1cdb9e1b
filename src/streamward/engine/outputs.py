"""The results of a step, and the counts of all steps so far."""

# Shapes: n successive tokens of one sequence; R risk levels; C categories; K scores of a probe.

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from streamward.schema import Side


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Scores of n successive tokens of one stream.

    Attributes:
        stream_id: From `Engine.open`.
        position: Index of the first token in its stream.
        side: Side whose heads scored them.
        risk_probs: Probabilities [n, R] in the order of the checkpoint's risk levels, float32.
        category_probs: Probabilities [n, C] in the order of the checkpoint's categories, float32.
        probe_scores: Scores [n, K] of each probe of the side, float32; NaN where a probe failed.
    """

    stream_id: int
    position: int
    side: Side
    risk_probs: NDArray[np.float32]
    category_probs: NDArray[np.float32]
    probe_scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counts since an engine was made.

    Attributes:
        computed_tokens: Tokens that steps have processed, evicted ones again.
        reused_tokens: Tokens that needed no step: a stream with the same beginning had left their keys and values.
        prefix_hits: Times that a stream found some.
    """

    computed_tokens: int
    reused_tokens: int
    prefix_hits: int


def last_token(output: StepOutput) -> StepOutput:
    """Return the scores of the last token only."""
    return replace(
        output,
        position=output.position + len(output.risk_probs) - 1,
        risk_probs=output.risk_probs[-1:],
        category_probs=output.category_probs[-1:],
        probe_scores={name: scores[-1:] for name, scores in output.probe_scores.items()},
    )
