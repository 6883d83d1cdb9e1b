"""Shape and labels of a Stream guard's heads, read from the keys of Qwen3Guard-Stream in `config.json`."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from streamward.errors import CheckpointError
from streamward.model.config_file import MAX_NUMBER, integer_at, table_at
from streamward.schema import Category, RiskLevel, Side

Label = TypeVar("Label", RiskLevel, Category)


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
    """Thresholds of one side of a guard, on probabilities.

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


def parse_guard_config(raw: Mapping[str, Any]) -> GuardConfig:
    """Read the heads' shape and label maps from the keys of Qwen3Guard-Stream.

    Raises:
        CheckpointError: A key is missing or a label is unknown.
    """
    own = table_at(raw, "streamward")
    points, offsets = _side_table(own, "operating_points"), _side_table(own, "risk_offsets")
    both = sorted(points.keys() & offsets.keys())
    if both:
        raise CheckpointError(f"config.json: streamward has operating_points and risk_offsets for {both[0]}; give one")
    config = GuardConfig(
        inner_size=integer_at(raw, "guard_inner_size"),
        prompt=SideLabels(
            _labels(raw, "query_risk_level_map", RiskLevel, integer_at(raw, "num_query_risk_level")),
            _labels(raw, "query_category_map", Category, integer_at(raw, "num_query_category")),
        ),
        response=SideLabels(
            _labels(raw, "response_risk_level_map", RiskLevel, integer_at(raw, "num_risk_level")),
            _labels(raw, "response_category_map", Category, integer_at(raw, "num_category")),
        ),
        operating_points={Side(side): _operating_point(side, point) for side, point in points.items()},
        window_tokens=integer_at(own, "window_tokens") if "window_tokens" in own else None,
    )
    found = {Side(side): _offsets(side, table, config.labels(Side(side))) for side, table in offsets.items()}
    return dataclasses.replace(config, risk_offsets=found)


def is_stream_checkpoint(raw: Mapping[str, Any]) -> bool:
    """Return whether `config.json` describes a guard with token heads."""
    return "guard_inner_size" in raw


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
    table = table_at(own, key)
    unknown = sorted(table.keys() - {side.value for side in Side})
    if unknown:
        raise CheckpointError(f"config.json: streamward.{key} has {unknown[0]!r}; sides are prompt, response")
    return table


def _offsets(side: str, raw: object, labels: SideLabels) -> tuple[float, ...]:
    names = [level.value for level in labels.risk_levels]
    if isinstance(raw, Mapping) and sorted(raw) == sorted(names):
        values = [raw[name] for name in names]
        if all(isinstance(value, int | float) and abs(value) < MAX_NUMBER for value in values):  # false for NaN too
            return tuple(map(float, values))
    raise CheckpointError(f"config.json: streamward.risk_offsets.{side} needs a number for each of {', '.join(names)}")


def _operating_point(side: str, raw: Mapping[str, Any]) -> OperatingPoint:
    try:
        point = OperatingPoint(float(raw["unsafe"]), float(raw["controversial"]))
        if math.isnan(point.unsafe) or math.isnan(point.controversial):
            raise ValueError("no verdict is over a threshold that is not a number")
        return point
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"config.json: streamward.operating_points.{side} needs the numbers unsafe and controversial"
        ) from error
