"""Reads a stage's settings from its TOML file."""

from pathlib import Path
from typing import Any, TypeVar

from streamward.errors import ConfigError
from streamward.settings import Settings, read_toml

Config = TypeVar("Config", bound=Settings)


def read_config(kind: type[Config], path: Path) -> Config:
    """Read a TOML file as settings of a kind.

    Raises:
        ConfigError: The file is missing, is not TOML, or a key is wrong.
    """
    return kind.parse(read_table(path), source=str(path))


def read_table(path: Path) -> dict[str, Any]:  # Any: TOML values
    """Read a TOML file.

    Raises:
        ConfigError: The file is missing or is not TOML.
    """
    try:
        return read_toml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{str(path)!r} not found; give the path of a TOML file, as in configs/train") from error
