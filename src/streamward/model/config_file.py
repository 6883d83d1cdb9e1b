"""Reads `config.json` and checks the values in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamward.errors import CheckpointError

_MAX_SIZE = 2**31 - 1
MAX_NUMBER = 1e30


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


def table_at(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return an object; an empty one where the key is missing or null.

    Raises:
        CheckpointError: It is something else.
    """
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"config.json: {key} is {value!r}; it must be an object")
    return value


def truth_at(raw: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    """Return true or false.

    Raises:
        CheckpointError: It is something else.
    """
    value = raw.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {key} is {value!r}; it must be true or false")
    return value


def integer_at(raw: Mapping[str, Any], key: str, default: int | None = None, *, at_most: int = _MAX_SIZE) -> int:
    """Return an integer from 1 to `at_most`.

    Raises:
        CheckpointError: It is missing without a default, or something else.
    """
    value = default if raw.get(key) is None else raw[key]
    if value is None:
        raise CheckpointError(f"config.json: {key} is missing")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= at_most:
        raise CheckpointError(f"config.json: {key} is {value!r}; it must be an integer from 1 to {at_most}")
    return value


def number_at(raw: Mapping[str, Any], key: str) -> float:
    """Return a positive number.

    Raises:
        CheckpointError: It is missing, or something else.
    """
    value = raw.get(key)
    if value is None:
        raise CheckpointError(f"config.json: {key} is missing")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < MAX_NUMBER:  # false for NaN too
        raise CheckpointError(f"config.json: {key} is {value!r}; it must be a positive number")
    return float(value)
