"""Single settings changed on the command line."""

import tomllib
from typing import Any

from streamward.errors import ConfigError


def apply_change(values: dict[str, Any], change: str) -> None:  # Any: TOML values
    """Change one setting of a decoded settings file.

    Args:
        values: Its tables; changed in place.
        change: As `limits.max_in_flight=64`; values as in TOML, or plain text.

    Raises:
        ConfigError: It has another form, or names a table that is a value.
    """
    name, separator, text = change.partition("=")
    *tables, key = name.strip().split(".")
    if not separator or not key:
        raise ConfigError(f"{change!r} is not a setting; write it as limits.max_in_flight=64")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{name.strip()} is not a setting: {table} is a value")
        values = inner
    try:
        values[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[key] = text.strip()  # a bare word is text
