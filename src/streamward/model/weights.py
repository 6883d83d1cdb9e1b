"""Names of tensors in published checkpoints, and where each belongs in our modules."""

from collections.abc import Iterator
from typing import NamedTuple

from streamward.model.config import ModelConfig
from streamward.model.guard_config import GuardConfig, SideLabels


class ParamMapping(NamedTuple):
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


def decoder_params(config: ModelConfig, *, prefix: str = "decoder.") -> Iterator[ParamMapping]:
    """Yield the tensors of a decoder in the layout of its family."""
    yield ParamMapping("model.embed_tokens.weight", f"{prefix}embed.weight", (config.vocab_size, config.hidden_size))
    for layer in range(config.num_layers):
        yield from _layer_params(config, f"model.layers.{layer}.", f"{prefix}layers.{layer}.")
    yield _norm_param(config, "model.norm.weight", f"{prefix}norm.weight", config.hidden_size)


def lm_head_param(config: ModelConfig) -> ParamMapping:
    """Return the language-model head; tied checkpoints leave it out."""
    return ParamMapping("lm_head.weight", "lm_head.weight", (config.vocab_size, config.hidden_size))


def head_params(config: ModelConfig, guard: GuardConfig) -> Iterator[ParamMapping]:
    """Yield the eight head tensors of Qwen3Guard-Stream."""
    for published, module in _SIDES:
        labels: SideLabels = guard.prompt if published else guard.response
        inner = guard.inner_size
        yield ParamMapping(
            f"{published}risk_level_category_pre.weight", f"{module}.pre.weight", (inner, config.hidden_size)
        )
        yield ParamMapping(f"{published}risk_level_category_layernorm.weight", f"{module}.norm.weight", (inner,))
        yield ParamMapping(
            f"{published}risk_level_head.weight", f"{module}.risk.weight", (len(labels.risk_levels), inner)
        )
        yield ParamMapping(
            f"{published}category_head.weight", f"{module}.category.weight", (len(labels.categories), inner)
        )


def param_rows(mapping: ParamMapping) -> slice:
    """Return the rows of our parameter that hold a published tensor."""
    return slice(mapping.first_row, mapping.first_row + mapping.shape[0])


def _norm_param(config: ModelConfig, published: str, module: str, size: int) -> ParamMapping:
    return ParamMapping(published, module, (size,), offset=1.0 if config.is_gemma else 0.0)


def _layer_params(config: ModelConfig, published: str, module: str) -> Iterator[ParamMapping]:
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = f"{published}self_attn."
    yield _norm_param(config, f"{published}input_layernorm.weight", f"{module}input_norm.weight", hidden)
    yield ParamMapping(f"{attention}q_proj.weight", f"{module}qkv.weight", (query, hidden))
    yield ParamMapping(f"{attention}k_proj.weight", f"{module}qkv.weight", (key, hidden), query)
    yield ParamMapping(f"{attention}v_proj.weight", f"{module}qkv.weight", (key, hidden), query + key)
    if config.has_qk_norm:
        yield _norm_param(config, f"{attention}q_norm.weight", f"{module}q_norm.weight", config.head_dim)
        yield _norm_param(config, f"{attention}k_norm.weight", f"{module}k_norm.weight", config.head_dim)
    yield ParamMapping(f"{attention}o_proj.weight", f"{module}out.weight", (hidden, query))
    for name, own in _LATER_NORMS[config.is_gemma].items():
        yield _norm_param(config, f"{published}{name}.weight", f"{module}{own}.weight", hidden)
    yield ParamMapping(f"{published}mlp.gate_proj.weight", f"{module}gate_up.weight", (inner, hidden))
    yield ParamMapping(f"{published}mlp.up_proj.weight", f"{module}gate_up.weight", (inner, hidden), inner)
    yield ParamMapping(f"{published}mlp.down_proj.weight", f"{module}down.weight", (hidden, inner))
