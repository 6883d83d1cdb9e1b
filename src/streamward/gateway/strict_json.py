"""JSON without its traps: no NaN, no infinity, no endless nesting, one value for a name."""

import json
import math
from typing import NoReturn

MAX_DEPTH = 64
"""Nested objects and lists."""

JsonObject = dict[str, object]


def parse_object(text: str | bytes) -> JsonObject:
    """Return the object a text spells.

    What is sent on is always written anew from this, so nothing that another parser would see reaches anybody.

    Raises:
        ValueError: It is not JSON, no object, nested too deeply, or has numbers that are none. Names no content.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"the JSON is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise ValueError("it is not valid JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    if _num_openings(text) > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise ValueError(f"the JSON is nested deeper than {MAX_DEPTH} levels")
    return value


def dump(value: object) -> bytes:
    """Return compact JSON in UTF-8, on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(digits: str) -> float:
    """Refuse what is too large for a number: it would be written as `Infinity`, which is no JSON."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("too large")
    return value


def _num_openings(text: str | bytes) -> int:
    if isinstance(text, bytes):
        return text.count(b"{") + text.count(b"[")
    return text.count("{") + text.count("[")


def _is_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        return levels == 0 or any(_is_deeper(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_is_deeper(item, levels - 1) for item in value)
    return False
