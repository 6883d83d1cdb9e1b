"""The base of every config: frozen, unknown keys forbidden."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from streamward.errors import ConfigError, InputError
from streamward.reasons import reason_of
from streamward.text_files import decode_structured
from streamward.validation import findings

_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)

_TOML_SENTENCES: Mapping[str, str] = {
    "Invalid statement": "a line must be `key = value` or a [table]",
    "Invalid value": "a value must be text in quotes, a number, true, false, a list or a date",
    "Cannot overwrite a value": "the key was given before",
    "Expected newline or end of document after a statement": "there is something behind the value",
}


class Settings(BaseModel):
    """A group of settings. Unknown keys are errors, values never change after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, source: str) -> Self:  # Any: TOML or JSON values
        """Build from decoded TOML or JSON.

        Args:
            values: Keys and values of one table.
            source: Where they came from, for the message.

        Raises:
            ConfigError: A key is unknown or a value is wrong. Names every key at fault.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{source}: {describe(error, cls)}") from error


def describe(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say in one line what is wrong with values for a model, without repeating them."""
    return "; ".join(map(str, findings(error.errors(include_url=False), kind)))


def describe_all(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """Say everything that is wrong with values for a model, one sentence each."""
    return [str(each) for each in findings(error.errors(include_url=False), kind, most=None)]


def read_toml(path: Path, *, what: str = "the file") -> dict[str, Any]:  # Any: TOML values
    """Read a TOML file.

    Args:
        path: UTF-8, or UTF-16.
        what: It is called in messages.

    Raises:
        FileNotFoundError: It is not there; the caller knows what may be given instead.
        ConfigError: It cannot be read, or is not TOML. Names the line.
    """
    try:
        text = decode_structured(path.read_bytes())
        return tomllib.loads(text)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{what} {str(path)!r} cannot be read: {reason_of(error)}") from error
    except InputError as error:
        raise ConfigError(f"{what} {str(path)!r} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{what} {str(path)!r} is not TOML: {_toml_problem(error, text)}") from error
    except ValueError as error:  # a NUL byte in the path
        raise ConfigError(f"{what} {str(path)!r} cannot be read: that is not a path") from error


def _toml_problem(error: tomllib.TOMLDecodeError, text: str) -> str:
    found = _TOML_PLACE.fullmatch(str(error))
    what = found[1] if found else str(error)
    place = f"line {found[2]}, column {found[3]}" if found and found[2] else f"line {text.count(chr(10)) + 1}"
    return f"{place}: {_TOML_SENTENCES.get(what, what[:1].lower() + what[1:])}"
