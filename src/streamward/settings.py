"""The base of every config: frozen, unknown keys forbidden."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from streamward.errors import ConfigError


class Settings(BaseModel):
    """A group of settings. Unknown keys are errors, values never change after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

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
            raise ConfigError(f"{source}: {describe(error)}") from error


def describe(error: ValidationError) -> str:
    """Say in one line what pydantic found, without repeating the values given."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}" for item in error.errors()
    )
