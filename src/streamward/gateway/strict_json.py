"""JSON without its traps: no NaN, no infinity, no endless nesting, one value for a name, no line end within a line."""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import NoReturn

MAX_DEPTH = 64
"""Nested objects and lists."""

LINE_ENDS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}
"""Characters that JSON may hold as they are and that many clients take for the end of a line; how they are written."""

JsonObject = dict[str, object]

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def parse_object(text: str | bytes) -> JsonObject:
    """Return the object a text spells.

    What is sent on is always written anew from this, so nothing that another parser would see reaches anybody.

    Raises:
        ValueError: It is not JSON, no object, nested too deeply, or has numbers that are none. Names no content.
    """
    value = _parsed(text, partial(json.loads, parse_constant=_refuse, parse_float=_finite))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def parse_answer(text: str | bytes) -> object:
    """Return the value that an upstream's JSON spells. NaN and infinity, which many servers write, are read as such.

    Raises:
        ValueError: It is not JSON, or nested too deeply. Names no content.
    """
    return _parsed(text, json.loads)


def dump(value: object) -> bytes:
    """Return compact JSON in UTF-8, on one line for every reader; null where a number is not finite."""
    try:
        text = _ENCODER.encode(value)
    except ValueError:
        text = _ENCODER.encode(_finite_only(value))
    for character, escaped in LINE_ENDS.items():
        text = text.replace(character, escaped)
    return text.encode("utf-8", "replace")


def _parsed(text: str | bytes, parse: Callable[[str | bytes], object]) -> object:
    try:
        value = parse(text)
    except RecursionError as error:
        raise ValueError(f"the JSON is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise ValueError("it is not valid JSON in UTF-8") from error
    if _num_openings(text) > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise ValueError(f"the JSON is nested deeper than {MAX_DEPTH} levels")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(digits: str) -> float:
    """Refuse what is too large for a number: it would be written as `Infinity`, which is not JSON."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("too large")
    return value


def _finite_only(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite_only(item) for name, item in value.items()}
    return [_finite_only(item) for item in value] if isinstance(value, list) else value


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
