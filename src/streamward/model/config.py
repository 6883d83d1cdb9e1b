"""Shapes and label maps of a checkpoint, read from its `config.json`."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from streamward.errors import CheckpointError
from streamward.schema import Category, RiskLevel, Side

_FAMILIES = ("qwen3", "llama", "gemma3_text")
Label = TypeVar("Label", RiskLevel, Category)
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
_MAX_SIZE = 2**31 - 1
_MAX_NUMBER = 1e30
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
        sliding_window: Of Gemma 3, whose decoder also normalises after attention and MLP, scales its embeddings by
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
        """Whether the decoder is of the Gemma 3 family."""
        return self.sliding_window is not None

    def window_of(self, layer: int) -> int | None:
        """Return how many tokens the queries of a layer see, themselves among them; None for all."""
        window = self.sliding_window
        return None if window is None or (layer + 1) % window.pattern == 0 else window.tokens


@dataclass(frozen=True, slots=True)
class SideLabels:
    """Order of one side's logits.

    Attributes:
        risk_levels: Level of each risk logit.
        categories: Category of each category logit.
    """

    risk_levels: tuple[RiskLevel, ...]
    categories: tuple[Category, ...]


PUBLISHED_RISK_LEVELS = (RiskLevel.SAFE, RiskLevel.UNSAFE, RiskLevel.CONTROVERSIAL)
PUBLISHED_RESPONSE_CATEGORIES = (
    Category.VIOLENT,
    Category.SEXUAL,
    Category.SELF_HARM,
    Category.POLITICAL,
    Category.PII,
    Category.COPYRIGHT,
    Category.ILLEGAL_ACTS,
    Category.UNETHICAL,
)
PUBLISHED_PROMPT_CATEGORIES = (*PUBLISHED_RESPONSE_CATEGORIES, Category.JAILBREAK)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where one side of a guard draws its lines, on probabilities.

    A token is Unsafe if P(Unsafe) >= `unsafe`; else Controversial if P(Unsafe) + P(Controversial) >= `controversial`.
    """

    unsafe: float
    controversial: float


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """Shape and labels of the token heads.

    Attributes:
        inner_size: Width between the pre-projection and the label projections.
        prompt: Labels of the heads read at a prompt's closing token.
        response: Labels of the heads read at every response token.
        operating_points: Calibrated thresholds of each side; a side without them uses the most probable level.
        risk_offsets: What calibration adds to each risk logit of a side, in their order: the most probable level is
            then the level at the calibrated point. A side has offsets, or thresholds, or neither.
        window_tokens: Longest text the guard was made to judge at once; None for all its positions.
    """

    inner_size: int
    prompt: SideLabels
    response: SideLabels
    operating_points: Mapping[Side, OperatingPoint] = field(default_factory=dict)
    risk_offsets: Mapping[Side, tuple[float, ...]] = field(default_factory=dict)
    window_tokens: int | None = None

    def labels(self, side: Side) -> SideLabels:
        """Return the labels of one side."""
        return self.prompt if side is Side.PROMPT else self.response


def read_config(folder: Path) -> dict[str, Any]:  # Any: JSON values
    """Read `config.json`.

    Raises:
        CheckpointError: It is missing or not a JSON object.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; a checkpoint folder needs config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return raw


def parse_model_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a decoder's shape from Hugging Face's keys.

    Raises:
        CheckpointError: A key is missing, of the wrong type, or asks for something this decoder does not do.
    """
    family = _family(raw)
    num_heads = _integer(raw, "num_attention_heads")
    hidden_size = _integer(raw, "hidden_size")
    config = ModelConfig(
        vocab_size=_integer(raw, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=_integer(raw, "num_hidden_layers", at_most=_MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=_integer(raw, "num_key_value_heads", num_heads),
        head_dim=_integer(raw, "head_dim", _HEAD_DIMS.get(family, hidden_size // num_heads)),
        intermediate_size=_integer(raw, "intermediate_size"),
        rope_theta=_rope_theta(raw, family),
        rms_norm_eps=_number(raw, "rms_norm_eps"),
        max_positions=_integer(raw, "max_position_embeddings", at_most=_MAX_POSITIONS),
        has_tied_embeddings=_truth(raw, "tie_word_embeddings", default=family == "gemma3_text"),
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


def parse_guard_config(raw: Mapping[str, Any]) -> GuardConfig:
    """Read the heads' shape and label maps from the keys of Qwen3Guard-Stream.

    Raises:
        CheckpointError: A key is missing or a label is unknown.
    """
    own = _table(raw, "streamward")
    points, offsets = _side_table(own, "operating_points"), _side_table(own, "risk_offsets")
    both = sorted(points.keys() & offsets.keys())
    if both:
        raise CheckpointError(f"config.json: streamward has operating_points and risk_offsets for {both[0]}; give one")
    config = GuardConfig(
        inner_size=_integer(raw, "guard_inner_size"),
        prompt=SideLabels(
            _labels(raw, "query_risk_level_map", RiskLevel, _integer(raw, "num_query_risk_level")),
            _labels(raw, "query_category_map", Category, _integer(raw, "num_query_category")),
        ),
        response=SideLabels(
            _labels(raw, "response_risk_level_map", RiskLevel, _integer(raw, "num_risk_level")),
            _labels(raw, "response_category_map", Category, _integer(raw, "num_category")),
        ),
        operating_points={Side(side): _operating_point(side, point) for side, point in points.items()},
        window_tokens=_integer(own, "window_tokens") if "window_tokens" in own else None,
    )
    found = {Side(side): _offsets(side, table, config.labels(Side(side))) for side, table in offsets.items()}
    return dataclasses.replace(config, risk_offsets=found)


def is_stream_checkpoint(raw: Mapping[str, Any]) -> bool:
    """Whether `config.json` describes a guard with token heads."""
    return "guard_inner_size" in raw


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


def guard_config_keys(config: GuardConfig) -> dict[str, Any]:
    """Write heads and label maps as the keys of Qwen3Guard-Stream."""
    keys: dict[str, Any] = {
        "guard_inner_size": config.inner_size,
        "num_risk_level": len(config.response.risk_levels),
        "num_category": len(config.response.categories),
        "num_query_risk_level": len(config.prompt.risk_levels),
        "num_query_category": len(config.prompt.categories),
        "response_risk_level_map": _label_map(config.response.risk_levels),
        "response_category_map": _label_map(config.response.categories),
        "query_risk_level_map": _label_map(config.prompt.risk_levels),
        "query_category_map": _label_map(config.prompt.categories),
    }
    own: dict[str, Any] = {}
    if config.operating_points:
        own["operating_points"] = {
            side.value: {"unsafe": point.unsafe, "controversial": point.controversial}
            for side, point in config.operating_points.items()
        }
    if config.risk_offsets:
        own["risk_offsets"] = {
            side.value: dict(zip((level.value for level in config.labels(side).risk_levels), offsets, strict=True))
            for side, offsets in config.risk_offsets.items()
        }
    if config.window_tokens is not None:
        own["window_tokens"] = config.window_tokens
    return {**keys, "streamward": own} if own else keys


def _label_map(labels: tuple[RiskLevel, ...] | tuple[Category, ...]) -> dict[str, str]:
    return {str(index): label.value for index, label in enumerate(labels)}


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
    local = _table(_table(raw, "rope_parameters"), "sliding_attention")
    theta = _number(local, "rope_theta") if "rope_theta" in local else _GEMMA_LOCAL_THETA
    if raw.get("rope_local_base_freq") is not None:
        theta = _number(raw, "rope_local_base_freq")
    pattern = "_sliding_window_pattern" if "_sliding_window_pattern" in raw else "sliding_window_pattern"
    return SlidingWindow(_integer(raw, "sliding_window"), _integer(raw, pattern, _GEMMA_SLIDING_PATTERN), theta)


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
    thetas = [] if raw.get("rope_theta") is None else [_number(raw, "rope_theta")]
    for key in ("rope_parameters", "rope_scaling"):
        parameters = _table(raw, key)
        if family == "gemma3_text":
            parameters = _table(parameters, "full_attention") or parameters
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
            thetas.append(_number(parameters, "rope_theta"))
    if len(set(thetas)) > 1:
        raise CheckpointError(f"config.json: rope_theta is given as {thetas[0]} and as {thetas[1]}; expected one value")
    return thetas[0] if thetas else _ROPE_THETAS.get(family, 10000.0)


def _table(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json: {key} is {value!r}; it must be an object")
    return value


def _truth(raw: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = raw.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {key} is {value!r}; it must be true or false")
    return value


def _integer(raw: Mapping[str, Any], key: str, default: int | None = None, *, at_most: int = _MAX_SIZE) -> int:
    value = default if raw.get(key) is None else raw[key]
    if value is None:
        raise CheckpointError(f"config.json: {key} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= at_most:
        raise CheckpointError(f"config.json: {key} is {value!r}; it must be an integer from 1 to {at_most}")
    return value


def _number(raw: Mapping[str, Any], key: str) -> float:
    value = raw.get(key)
    if value is None:
        raise CheckpointError(f"config.json: {key} is missing")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < _MAX_NUMBER:  # false for NaN too
        raise CheckpointError(f"config.json: {key} is {value!r}; it must be a positive number")
    return float(value)


def _labels(raw: Mapping[str, Any], key: str, labels: type[Label], count: int) -> tuple[Label, ...]:
    mapping = raw.get(key)
    if not isinstance(mapping, Mapping):
        raise CheckpointError(f"config.json: {key} must map {count} logit indices to labels")
    by_index: dict[int, Label] = {}
    for left, right in mapping.items():  # published as index -> label; label -> index is read too
        index, name = (left, right) if str(left).isdigit() else (right, left)
        try:
            by_index[int(str(index))] = labels(name)
        except ValueError as error:
            known = ", ".join(label.value for label in labels)
            raise CheckpointError(f"config.json: {key} has {left!r}: {right!r}; known labels are {known}") from error
    if len(set(by_index.values())) != count or sorted(by_index) != list(range(len(by_index))):
        raise CheckpointError(f"config.json: {key} must name each of the logits 0 to {count - 1} once")
    return tuple(by_index[index] for index in range(count))


def _side_table(own: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = _table(own, key)
    unknown = sorted(table.keys() - {side.value for side in Side})
    if unknown:
        raise CheckpointError(f"config.json: streamward.{key} has {unknown[0]!r}; sides are prompt, response")
    return table


def _offsets(side: str, raw: object, labels: SideLabels) -> tuple[float, ...]:
    names = [level.value for level in labels.risk_levels]
    if isinstance(raw, Mapping) and sorted(raw) == sorted(names):
        values = [raw[name] for name in names]
        if all(isinstance(value, int | float) and abs(value) < _MAX_NUMBER for value in values):  # false for NaN too
            return tuple(map(float, values))
    raise CheckpointError(f"config.json: streamward.risk_offsets.{side} needs a number for each of {', '.join(names)}")


def _operating_point(side: str, raw: Mapping[str, Any]) -> OperatingPoint:
    try:
        point = OperatingPoint(float(raw["unsafe"]), float(raw["controversial"]))
        if math.isnan(point.unsafe) or math.isnan(point.controversial):
            raise ValueError("no verdict is over a line that is not a number")
        return point
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"config.json: streamward.operating_points.{side} needs the numbers unsafe and controversial"
        ) from error
