"""transformers over the same shapes: the published behaviour, and its own cache."""

from typing import TYPE_CHECKING, Any

import torch

from streamward.bench.shapes import SHAPES
from streamward.bench.timing import Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def reference_model(shape: str, *, dtype: torch.dtype) -> "PreTrainedModel":
    """Make transformers' model of a shape with random weights.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

    config = SHAPES[shape]
    keys: dict[str, Any] = {  # Any: numbers here, many types in their signatures
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
    }
    model: PreTrainedModel
    with torch.device("meta"):
        model = Qwen3Model(Qwen3Config(**keys)) if config.has_qk_norm else LlamaModel(LlamaConfig(**keys))
    model.to(dtype)  # type: ignore[arg-type]  # annotated for whole models only
    model.to_empty(device="cpu").eval()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.03, 0.03)
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    model.rotary_emb.register_buffer("inv_freq", config.rope_theta**-exponents, persistent=False)
    return model


def rereading(model: "PreTrainedModel", *, context: int) -> Work:
    """Judge one new token as the code published with Qwen3Guard-Stream does: by reading the whole text once more."""
    ids_1S = _ids(context + 1)

    @torch.inference_mode()
    def read() -> object:
        return model(input_ids=ids_1S, use_cache=False).last_hidden_state[:, -1]

    return read


def cached(model: "PreTrainedModel", *, context: int, k: int) -> Work:
    """k new tokens behind a context in transformers' own cache."""
    from transformers import DynamicCache

    cache = DynamicCache()
    with torch.inference_mode():
        for part in _ids(context).split(512, dim=1):
            model(input_ids=part, past_key_values=cache, use_cache=True)
    new_1k = _ids(k)

    @torch.inference_mode()
    def step() -> object:
        hidden = model(input_ids=new_1k, past_key_values=cache, use_cache=True).last_hidden_state
        cache.crop(-k)
        return hidden

    return step


def _ids(count: int) -> torch.Tensor:
    return 7 + torch.arange(count)[None] % 1000
