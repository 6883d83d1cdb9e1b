"""Writes weights in the published layouts of Qwen3Guard-Stream and of causal language models, without torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from streamward.kernels.bfloat16 import to_bfloat16
from streamward.model.checkpoint_files import SINGLE_FILE
from streamward.model.config import ModelConfig, model_config_keys
from streamward.model.guard_config import GuardConfig, guard_config_keys
from streamward.model.parameters import ModelParameters, parameter_mappings
from streamward.model.tensor_file import Array, save_tensors
from streamward.model.weights import param_rows

_ARCHITECTURES = {"qwen3": "Qwen3", "llama": "Llama", "gemma3_text": "Gemma3"}


def save_published(parameters: ModelParameters, folder: Path) -> None:
    """Write `model.safetensors` in bfloat16 and `config.json`; the tokenizer is the caller's to copy.

    Args:
        parameters: 8-bit weights are dequantized.
        folder: Must exist.
    """
    tensors: dict[str, Array] = {}
    for mapping in parameter_mappings(parameters.config, parameters.guard, has_lm_head=True):
        if len(mapping.shape) == 1:
            values = parameters.vectors[mapping.module] - np.float32(mapping.offset)
            tensors[mapping.published] = to_bfloat16(values)
        else:
            tensors[mapping.published] = parameters.bfloat16(mapping.module)[param_rows(mapping)]
    save_tensors(folder / SINGLE_FILE, tensors, metadata={"format": "pt"})
    keys = config_keys(parameters.config, parameters.guard, dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")


def config_keys(config: ModelConfig, guard: GuardConfig | None, *, dtype: str) -> dict[str, Any]:  # Any: JSON values
    """Return the keys of `config.json` for a Stream guard, or for a causal language model if `guard` is None."""
    keys: dict[str, Any] = model_config_keys(config)
    if guard is not None:
        keys |= guard_config_keys(guard)
    kind = "ForGuardModel" if guard is not None else "ForCausalLM"
    return {**keys, "architectures": [f"{_ARCHITECTURES[config.family]}{kind}"], "torch_dtype": dtype}
