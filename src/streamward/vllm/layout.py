"""vLLM's answer for a Stream guard: one row of probabilities per token, and which guard gave it."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.model.config import ModelConfig, model_config_keys
from streamward.model.guard_config import GuardConfig, guard_config_keys
from streamward.schema import Side


@dataclass(frozen=True, slots=True)
class Rows:
    """Probabilities of the last tokens of a request.

    Attributes:
        probs: One row a token, [tokens, labels], float32; the heads' labels lie side by side as in `head_widths`.
        num_cached: Tokens before them that vLLM says it took from its cache.
    """

    probs: NDArray[np.float32]
    num_cached: int


def head_widths(config: GuardConfig) -> tuple[int, int, int, int]:
    """Return the labels of each head: risk and category of the response, then of the prompt."""
    sides = (config.response, config.prompt)
    response, prompt = ((len(labels.risk_levels), len(labels.categories)) for labels in sides)
    return *response, *prompt


def side_probs(
    probs: NDArray[np.float32], side: Side, config: GuardConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take risk and category of one side out of rows of all heads."""
    parts = np.split(probs, np.cumsum(head_widths(config))[:-1], axis=-1)
    risk, category = parts[:2] if side is Side.RESPONSE else parts[2:]
    return risk, category


def fingerprint(model: ModelConfig, guard: GuardConfig) -> str:
    """Return a digest of shapes and label maps, by which client and server tell that they mean the same guard.

    Operating points are left out: they are the client's.
    """
    keys = {**model_config_keys(model), **guard_config_keys(guard)}
    keys.pop("streamward", None)
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16]
