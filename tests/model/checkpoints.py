"""Random checkpoints in the published layouts."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from streamward.model.checkpoint_files import SINGLE_FILE

QWEN3_CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 24,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "max_window_layers": 2,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 50,
}
LLAMA_CONFIG = {**QWEN3_CONFIG, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 10000.0}
CONFIGS = {"qwen3": QWEN3_CONFIG, "llama": LLAMA_CONFIG}

RESPONSE_CATEGORIES = {
    "0": "Violent",
    "1": "Sexual Content or Sexual Acts",
    "2": "Suicide & Self-Harm",
    "3": "Politically Sensitive Topics",
    "4": "PII",
    "5": "Copyright Violation",
    "6": "Non-violent Illegal Acts",
    "7": "Unethical Acts",
}
RISK_LEVELS = {"0": "Safe", "1": "Unsafe", "2": "Controversial"}
STREAM_KEYS: dict[str, Any] = {
    "architectures": ["Qwen3ForGuardModel"],
    "guard_inner_size": 12,
    "num_risk_level": 3,
    "num_category": 8,
    "num_query_risk_level": 3,
    "num_query_category": 9,
    "response_risk_level_map": RISK_LEVELS,
    "response_category_map": RESPONSE_CATEGORIES,
    "query_risk_level_map": RISK_LEVELS,
    "query_category_map": {**RESPONSE_CATEGORIES, "8": "Jailbreak"},
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a folder holds."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(dict(self.config)))
        save_file(dict(self.tensors), folder / SINGLE_FILE)
        return folder

    def with_config(self, **keys: Any) -> "Checkpoint":
        return dataclasses.replace(self, config={**self.config, **keys})

    def without_config(self, key: str) -> "Checkpoint":
        return dataclasses.replace(self, config={name: value for name, value in self.config.items() if name != key})

    def with_tensor(self, name: str, tensor: Tensor) -> "Checkpoint":
        return dataclasses.replace(self, tensors={**self.tensors, name: tensor})

    def without_tensor(self, name: str) -> "Checkpoint":
        return dataclasses.replace(self, tensors={key: value for key, value in self.tensors.items() if key != name})


def gen_checkpoint(family: str = "qwen3", *, is_tied: bool = True, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """A causal language model, every published tensor written out by hand."""
    config = {**CONFIGS[family], "tie_word_embeddings": is_tied}
    shapes = _decoder_shapes(has_qk_norm=family == "qwen3")
    if not is_tied:
        shapes["lm_head.weight"] = (50, 24)
    return Checkpoint(config, _random(shapes, dtype))


def stream_checkpoint(family: str = "qwen3", *, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """A guard with token heads in the layout of Qwen3Guard-Stream."""
    shapes = _decoder_shapes(has_qk_norm=family == "qwen3")
    for prefix, num_categories in (("", 8), ("query_", 9)):
        shapes |= {
            f"{prefix}risk_level_category_pre.weight": (12, 24),
            f"{prefix}risk_level_category_layernorm.weight": (12,),
            f"{prefix}risk_level_head.weight": (3, 12),
            f"{prefix}category_head.weight": (num_categories, 12),
        }
    return Checkpoint({**CONFIGS[family], **STREAM_KEYS}, _random(shapes, dtype))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, whatever files they are in."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def _decoder_shapes(*, has_qk_norm: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (50, 24), "model.norm.weight": (24,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (24,),
            f"{prefix}self_attn.q_proj.weight": (32, 24),
            f"{prefix}self_attn.k_proj.weight": (16, 24),
            f"{prefix}self_attn.v_proj.weight": (16, 24),
            f"{prefix}self_attn.o_proj.weight": (24, 32),
            f"{prefix}post_attention_layernorm.weight": (24,),
            f"{prefix}mlp.gate_proj.weight": (40, 24),
            f"{prefix}mlp.up_proj.weight": (40, 24),
            f"{prefix}mlp.down_proj.weight": (24, 40),
        }
        if has_qk_norm:
            shapes |= {f"{prefix}self_attn.{name}_norm.weight": (8,) for name in "qk"}
    return shapes


def _random(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
