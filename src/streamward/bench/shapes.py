"""Guards of the published shapes with random weights: speed does not depend on what they say."""

import dataclasses

import torch
from torch import nn

from streamward.bundled.base import BASE_CONFIG
from streamward.errors import InputError
from streamward.kernels.quantization import QuantizedWeight, quantize
from streamward.model.config import ModelConfig
from streamward.model.guard_config import (
    PUBLISHED_PROMPT_CATEGORIES,
    PUBLISHED_RESPONSE_CATEGORIES,
    PUBLISHED_RISK_LEVELS,
    GuardConfig,
    SideLabels,
)
from streamward.model.guard_model import GuardModel
from streamward.model.parameters import ModelParameters


def _qwen3(*, hidden_size: int, num_layers: int, num_heads: int, intermediate_size: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=151936,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=intermediate_size,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        max_positions=8192,
        has_tied_embeddings=True,
        has_qk_norm=True,
    )


SHAPES = {
    "0.6b": _qwen3(hidden_size=1024, num_layers=28, num_heads=16, intermediate_size=3072),
    "4b": _qwen3(hidden_size=2560, num_layers=36, num_heads=32, intermediate_size=9728),
    "8b": _qwen3(hidden_size=4096, num_layers=36, num_heads=32, intermediate_size=12288),
    "135m": BASE_CONFIG,
    "135m-18": dataclasses.replace(BASE_CONFIG, num_layers=18),
    "135m-12": dataclasses.replace(BASE_CONFIG, num_layers=12),
}
"""Qwen3Guard-Stream in its three sizes (from Qwen3's configurations), and the embedded base with all layers or those of
the embedded guards."""


def random_guard(shape: str, *, dtype: torch.dtype) -> GuardModel:
    """Make a guard of a shape.

    Raises:
        InputError: There is no such shape.
    """
    if shape not in SHAPES:
        raise InputError(f"there is no shape {shape!r}; there are {', '.join(SHAPES)}")
    inner_size = 256 if shape.startswith("135m") else 512
    guard_config = GuardConfig(
        inner_size,
        SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_PROMPT_CATEGORIES),
        SideLabels(PUBLISHED_RISK_LEVELS, PUBLISHED_RESPONSE_CATEGORIES),
    )
    with torch.device("meta"):
        model = GuardModel(SHAPES[shape], guard_config)
    model = model.to(dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.uniform_(module.weight, -0.03, 0.03, generator=generator)
        elif hasattr(module, "eps"):
            nn.init.ones_(module.get_parameter("weight"))
    model.decoder.fill_rotary_table()
    return model.eval()


def rounded(parameters: ModelParameters) -> ModelParameters:
    """Return a guard whose decoder has 8-bit weights; nothing is smoothed or left exact: values do not matter."""
    weights = {
        name: tuple(quantize(block) for block in blocks if not isinstance(block, QuantizedWeight))
        if name.startswith("decoder.")
        else blocks
        for name, blocks in parameters.weights.items()
    }
    return dataclasses.replace(parameters, weights=weights)


def linear_bytes(model: GuardModel) -> int:
    """Return the bytes of weights that one step reads: all but the embedding."""
    return sum(value.nbytes for name, value in model.named_parameters() if not name.startswith("decoder.embed"))
