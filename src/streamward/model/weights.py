"""Names of tensors in published checkpoints, and where each belongs in our modules."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from streamward.model.config import GuardConfig, ModelConfig, SideLabels


class Slot(NamedTuple):
    """One published tensor's place.

    Attributes:
        published: Its name in the checkpoint.
        module: Name of our parameter.
        shape: Expected shape.
        first_row: Where its rows begin in our parameter, which may hold several tensors one below the other.
        offset: What our parameter has more: the norms of Gemma 3 are published as the difference from 1.
    """

    published: str
    module: str
    shape: tuple[int, ...]
    first_row: int = 0
    offset: float = 0.0


_LATER_NORMS = {  # by whether the family is Gemma 3, where the same name stands for another norm
    False: {"post_attention_layernorm": "post_norm"},
    True: {
        "post_attention_layernorm": "attention_out_norm",
        "pre_feedforward_layernorm": "post_norm",
        "post_feedforward_layernorm": "mlp_out_norm",
    },
}
_SIDES = (("", "response_heads"), ("query_", "prompt_heads"))


def decoder_slots(config: ModelConfig, *, prefix: str = "decoder.") -> Iterator[Slot]:
    """Yield the tensors of a decoder in the layout of its family."""
    yield Slot("model.embed_tokens.weight", f"{prefix}embed.weight", (config.vocab_size, config.hidden_size))
    for layer in range(config.num_layers):
        yield from _layer_slots(config, f"model.layers.{layer}.", f"{prefix}layers.{layer}.")
    yield _norm_slot(config, "model.norm.weight", f"{prefix}norm.weight", config.hidden_size)


def lm_head_slot(config: ModelConfig) -> Slot:
    """Return the language-model head; tied checkpoints leave it out."""
    return Slot("lm_head.weight", "lm_head.weight", (config.vocab_size, config.hidden_size))


def head_slots(config: ModelConfig, guard: GuardConfig) -> Iterator[Slot]:
    """Yield the eight head tensors of Qwen3Guard-Stream."""
    for published, module in _SIDES:
        labels: SideLabels = guard.prompt if published else guard.response
        inner = guard.inner_size
        yield Slot(f"{published}risk_level_category_pre.weight", f"{module}.pre.weight", (inner, config.hidden_size))
        yield Slot(f"{published}risk_level_category_layernorm.weight", f"{module}.norm.weight", (inner,))
        yield Slot(f"{published}risk_level_head.weight", f"{module}.risk.weight", (len(labels.risk_levels), inner))
        yield Slot(f"{published}category_head.weight", f"{module}.category.weight", (len(labels.categories), inner))


def part(parameter: Tensor, slot: Slot) -> Tensor:
    """Return the rows of our parameter that hold a published tensor; a view."""
    return parameter[slot.first_row : slot.first_row + slot.shape[0]]


def _norm_slot(config: ModelConfig, published: str, module: str, size: int) -> Slot:
    return Slot(published, module, (size,), offset=1.0 if config.is_gemma else 0.0)


def _layer_slots(config: ModelConfig, published: str, module: str) -> Iterator[Slot]:
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = f"{published}self_attn."
    yield _norm_slot(config, f"{published}input_layernorm.weight", f"{module}input_norm.weight", hidden)
    yield Slot(f"{attention}q_proj.weight", f"{module}qkv.weight", (query, hidden))
    yield Slot(f"{attention}k_proj.weight", f"{module}qkv.weight", (key, hidden), query)
    yield Slot(f"{attention}v_proj.weight", f"{module}qkv.weight", (key, hidden), query + key)
    if config.has_qk_norm:
        yield _norm_slot(config, f"{attention}q_norm.weight", f"{module}q_norm.weight", config.head_dim)
        yield _norm_slot(config, f"{attention}k_norm.weight", f"{module}k_norm.weight", config.head_dim)
    yield Slot(f"{attention}o_proj.weight", f"{module}out.weight", (hidden, query))
    for name, own in _LATER_NORMS[config.is_gemma].items():
        yield _norm_slot(config, f"{published}{name}.weight", f"{module}{own}.weight", hidden)
    yield Slot(f"{published}mlp.gate_proj.weight", f"{module}gate_up.weight", (inner, hidden))
    yield Slot(f"{published}mlp.up_proj.weight", f"{module}gate_up.weight", (inner, hidden), inner)
    yield Slot(f"{published}mlp.down_proj.weight", f"{module}down.weight", (hidden, inner))
