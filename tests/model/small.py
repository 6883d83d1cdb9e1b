"""Small models in numpy, of shapes that 8-bit weights and the kernels support."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.bfloat16 import from_bfloat16, to_bfloat16
from streamward.model.calibration import Embedding, exact_linear
from streamward.model.config import ModelConfig, SlidingWindow
from streamward.model.guard_config import (
    PUBLISHED_PROMPT_CATEGORIES,
    PUBLISHED_RESPONSE_CATEGORIES,
    PUBLISHED_RISK_LEVELS,
    GuardConfig,
    SideLabels,
)
from streamward.model.parameters import EMBEDDING, ModelParameters, Weight, module_shapes, parameter_mappings
from streamward.model.reference_decoder import Floats, ReferenceDecoder

IDS = np.arange(30)
GUARD = GuardConfig(
    inner_size=64,
    prompt=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_PROMPT_CATEGORIES),
    response=SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_RESPONSE_CATEGORIES),
)
FAMILIES: Mapping[str, Mapping[str, Any]] = {  # Any: fields of `ModelConfig`
    "llama": {"has_qk_norm": False},
    "qwen3": {"has_qk_norm": True},
    "gemma3": {"has_qk_norm": True, "sliding_window": SlidingWindow(tokens=20, pattern=2, rope_theta=1000.0)},
}


def small_config(**fields: Any) -> ModelConfig:
    """Return a decoder's shape: six query heads of 64 on two key heads."""
    values: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 128,
        "num_layers": 2,
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 64,
        "intermediate_size": 192,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "max_positions": 300,
        "has_tied_embeddings": True,
        "has_qk_norm": False,
    }
    return ModelConfig(**{**values, **fields})


def small_guard(*, seed: int = 3, guard: GuardConfig | None = GUARD, **fields: Any) -> ModelParameters:
    """Return a model with random weights, whose layers write less into the residual stream than the embeddings."""
    rng = np.random.default_rng(seed)
    config = small_config(**fields)
    weights: dict[str, tuple[Weight, ...]] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    for name, shape in module_shapes(parameter_mappings(config, guard, has_lm_head=True)).items():
        noise = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            vectors[name] = from_bfloat16(to_bfloat16(1 + np.float32(0.3) * noise))
        else:
            size = 1.0 if name == EMBEDDING else 0.5 * shape[1] ** -0.5
            weights[name] = (to_bfloat16(noise * np.float32(size)),)
    return ModelParameters(config, guard, weights, vectors)


def hidden(parameters: ModelParameters, ids: NDArray[np.int64] = IDS) -> Floats:
    """Return the hidden states [T, D] of a text by the reference decoder."""
    decoder = ReferenceDecoder(
        parameters.config,
        vectors=parameters.vectors,
        linear=exact_linear(parameters),
        embed=Embedding(parameters),
    )
    return decoder(ids)


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    difference = actual.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))
