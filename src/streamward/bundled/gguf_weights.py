"""Reads the weights of a GGUF file into the tensors of a Hugging Face folder."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from streamward.kernels.bfloat16 import to_bfloat16
from streamward.model.config import ModelConfig
from streamward.model.tensor_file import save_tensors

_PLAIN_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_NAMES = {
    **_LAYER_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def save_weights(gguf_path: Path, config: ModelConfig, target: Path) -> None:
    """Dequantise the weights of a Llama or Gemma 3 model and write them as safetensors in bfloat16."""
    names = _GEMMA_NAMES if config.is_gemma else _LAYER_NAMES
    tensors: dict[str, NDArray[np.uint16]] = {}
    for item in gguf.GGUFReader(gguf_path).tensors:
        name = _published_name(item.name, names)
        values = np.array(gguf.dequantize(item.data, item.tensor_type))
        if config.is_gemma:
            if name.endswith("norm.weight"):
                values -= 1.0  # llama.cpp stores what multiplies, the published layout the difference from 1
        elif name.endswith("q_proj.weight"):
            values = _unpermute(values, config.num_heads)
        elif name.endswith("k_proj.weight"):
            values = _unpermute(values, config.num_kv_heads)
        tensors[name] = to_bfloat16(values.astype(np.float32))
    save_tensors(target, tensors, metadata={"format": "pt"})


def _published_name(gguf_name: str, names: Mapping[str, str]) -> str:
    if gguf_name in _PLAIN_NAMES:
        return _PLAIN_NAMES[gguf_name]
    _, layer, name, suffix = gguf_name.split(".")
    return f"model.layers.{layer}.{names[name]}.{suffix}"


def _unpermute(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Undo the row order of rotary projections that llama.cpp uses for Llama: pairs side by side back to halves."""
    rows, columns = values.shape
    return values.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
