"""Shape of a checkpoint's decoder, read from its `config.json`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamward.errors import CheckpointError
from streamward.model.config_file import integer_at, number_at, table_at, truth_at

_FAMILIES = ("qwen3", "llama", "gemma3_text")
_ROPE_PLAIN = (None, "default")
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}  # all that plain embeddings can have
_ROPE_LOCAL = ("full_attention", "sliding_attention")  # tables of rope_parameters where layers differ
_HEAD_DIMS = {
    "qwen3": 128,
    "gemma3_text": 256,
}  # where config.json does not say; else hidden_size / num_attention_heads
_ACTIVATIONS = {"qwen3": "silu", "llama": "silu", "gemma3_text": "gelu_pytorch_tanh"}
_GEMMA_SLIDING_PATTERN = 6
_GEMMA_LOCAL_THETA = 10000.0
_ROPE_THETAS = {"gemma3_text": 1e6}  # where config.json does not say; else 10,000
_MAX_LAYERS = 1024
_MAX_POSITIONS = 2**20  # the rotary table is made for all of them: half a gigabyte at a head size of 128


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Layers whose tokens see only the newest ones (Gemma 3 technical report, arXiv 2503.19786).

    Attributes:
        tokens: How many tokens a query sees, itself among them.
        pattern: Every layer slides but each `pattern`-th, counted from 1.
        rope_theta: Base of the rotary embeddings of the sliding layers.
    """

    tokens: int
    pattern: int
    rope_theta: float


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a decoder of the Qwen3, Llama or Gemma 3 family.

    Attributes:
        has_qk_norm: RMSNorm over each head of queries and keys (Qwen3, Gemma 3).
        max_positions: Longest sequence the checkpoint was made for, in tokens.
        sliding_window: That of Gemma 3, whose decoder also normalises after attention and MLP, scales its embeddings by
            sqrt(hidden_size) and gates with GELU; None in the other families.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    rms_norm_eps: float
    max_positions: int
    has_tied_embeddings: bool
    has_qk_norm: bool
    sliding_window: SlidingWindow | None = None

    @property
    def family(self) -> str:
        """`qwen3`, `llama` or `gemma3_text`, as in `model_type`."""
        if self.sliding_window is not None:
            return "gemma3_text"
        return "qwen3" if self.has_qk_norm else "llama"

    @property
    def is_gemma(self) -> bool:
        """True if the decoder is of the Gemma 3 family."""
        return self.sliding_window is not None

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens the queries of a layer see, themselves among them; None for all."""
        window = self.sliding_window
        return None if window is None or (layer + 1) % window.pattern == 0 else window.tokens


def parse_model_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a decoder's shape from Hugging Face's keys.

    Raises:
        CheckpointError: A key is missing, of the wrong type, or asks for something this decoder does not do.
    """
    family = _family(raw)
    num_heads = integer_at(raw, "num_attention_heads")
    hidden_size = integer_at(raw, "hidden_size")
    config = ModelConfig(
        vocab_size=integer_at(raw, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=integer_at(raw, "num_hidden_layers", at_most=_MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=integer_at(raw, "num_key_value_heads", num_heads),
        head_dim=integer_at(raw, "head_dim", _HEAD_DIMS.get(family, hidden_size // num_heads)),
        intermediate_size=integer_at(raw, "intermediate_size"),
        rope_theta=_rope_theta(raw, family),
        rms_norm_eps=number_at(raw, "rms_norm_eps"),
        max_positions=integer_at(raw, "max_position_embeddings", at_most=_MAX_POSITIONS),
        has_tied_embeddings=truth_at(raw, "tie_word_embeddings", default=family == "gemma3_text"),
        has_qk_norm=family != "llama",
        sliding_window=_sliding_window(raw) if family == "gemma3_text" else None,
    )
    if config.is_gemma:
        _refuse_gemma_variants(raw, config)
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads ({config.num_heads}) must be a multiple of"
            f" num_key_value_heads ({config.num_kv_heads})"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"config.json: head_dim is {config.head_dim}; rotary embeddings need an even number")
    return config


def model_config_keys(config: ModelConfig) -> dict[str, Any]:
    """Write a decoder's shape as Hugging Face's keys."""
    keys = {
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.has_tied_embeddings,
        "attention_bias": False,
    }
    if config.sliding_window is None:
        return {**keys, "hidden_act": "silu"}
    return {
        **keys,
        "hidden_activation": _ACTIVATIONS["gemma3_text"],
        "query_pre_attn_scalar": config.head_dim,
        "rope_local_base_freq": config.sliding_window.rope_theta,
        "sliding_window": config.sliding_window.tokens,
        "sliding_window_pattern": config.sliding_window.pattern,
    }


def _family(raw: Mapping[str, Any]) -> str:
    model_type, architectures = raw.get("model_type"), raw.get("architectures")
    for name in (model_type, *(architectures if isinstance(architectures, list) else ())):
        for family in _FAMILIES:
            # `qwen3`, `Qwen3ForCausalLM`, `Qwen3ForGuardModel`; but `qwen3_moe` and `llama4` are other models.
            if re.fullmatch(rf"{family}(_?guard.*|for[a-z]+)?", str(name), re.IGNORECASE):
                _refuse_variants(raw, family)
                return family
    raise CheckpointError(f"config.json: model_type is {model_type!r}; supported families are {', '.join(_FAMILIES)}")


def _refuse_variants(raw: Mapping[str, Any], family: str) -> None:
    expected = {
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "hidden_act": (_ACTIVATIONS[family], None),
        "hidden_activation": (_ACTIVATIONS[family], None),
        "use_sliding_window": (False, None),
        "partial_rotary_factor": (1.0, None),
    }
    for key, allowed in expected.items():
        if raw.get(key) not in allowed:
            raise CheckpointError(f"config.json: {key} is {raw[key]!r}; only {allowed[0]!r} is supported")
    if family == "gemma3_text":  # whose layers differ by rule: `_refuse_gemma_variants`
        return
    layer_types = raw.get("layer_types") or ["full_attention"]
    other = (
        [kind for kind in layer_types if kind != "full_attention"] if isinstance(layer_types, list) else [layer_types]
    )
    if other:
        raise CheckpointError(f"config.json: layer_types has {other[0]!r}; only 'full_attention' is supported")


def _sliding_window(raw: Mapping[str, Any]) -> SlidingWindow:
    local = table_at(table_at(raw, "rope_parameters"), "sliding_attention")
    theta = number_at(local, "rope_theta") if "rope_theta" in local else _GEMMA_LOCAL_THETA
    if raw.get("rope_local_base_freq") is not None:
        theta = number_at(raw, "rope_local_base_freq")
    pattern = "_sliding_window_pattern" if "_sliding_window_pattern" in raw else "sliding_window_pattern"
    return SlidingWindow(integer_at(raw, "sliding_window"), integer_at(raw, pattern, _GEMMA_SLIDING_PATTERN), theta)


def _refuse_gemma_variants(raw: Mapping[str, Any], config: ModelConfig) -> None:
    expected: dict[str, tuple[Any, ...]] = {  # Any: JSON values
        "query_pre_attn_scalar": (config.head_dim, None),
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
        "use_bidirectional_attention": (False, None),
    }
    for key, allowed in expected.items():
        if raw.get(key) not in allowed:
            raise CheckpointError(f"config.json: {key} is {raw[key]!r}; only {allowed[0]!r} is supported")
    ruled = [_ROPE_LOCAL[config.window_of(layer) is not None] for layer in range(config.num_layers)]
    given = raw.get("layer_types")
    if given is not None and (not isinstance(given, list) or given[: config.num_layers] != ruled):
        raise CheckpointError("config.json: layer_types does not follow sliding_window_pattern; only that is supported")


def _rope_theta(raw: Mapping[str, Any], family: str) -> float:
    thetas = [] if raw.get("rope_theta") is None else [number_at(raw, "rope_theta")]
    for key in ("rope_parameters", "rope_scaling"):
        parameters = table_at(raw, key)
        if family == "gemma3_text":
            parameters = table_at(parameters, "full_attention") or parameters
        kind = parameters.get("rope_type", parameters.get("type"))
        if kind not in _ROPE_PLAIN:
            raise CheckpointError(f"config.json: rope type {kind!r} is not supported; only plain rotary embeddings are")
        unknown = sorted(parameters.keys() - _ROPE_KEYS)
        if unknown or parameters.get("partial_rotary_factor", 1.0) != 1.0:
            name = unknown[0] if unknown else "partial_rotary_factor"
            raise CheckpointError(
                f"config.json: {key} has {name} = {parameters[name]!r}; only plain rotary embeddings are supported"
            )
        if "rope_theta" in parameters:
            thetas.append(number_at(parameters, "rope_theta"))
    if len(set(thetas)) > 1:
        raise CheckpointError(f"config.json: rope_theta is given as {thetas[0]} and as {thetas[1]}; expected one value")
    return thetas[0] if thetas else _ROPE_THETAS.get(family, 10000.0)
