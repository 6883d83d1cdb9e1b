"""Keys of other servers, read from environment variables."""

import os

from pydantic import SecretStr

from streamward.errors import ConfigError


def is_header_value(key: str) -> bool:
    """Return whether a key can be sent in a header: printable ASCII without spaces, and not empty."""
    return bool(key) and all("!" <= letter <= "~" for letter in key)


def key_from(variable: str) -> SecretStr:
    """Return the key that an environment variable holds, which a setting `api_key_env` names.

    Raises:
        ConfigError: The environment variable is not set or holds no key.
    """
    key = os.environ.get(variable, "")
    if not is_header_value(key):
        raise ConfigError(
            f"the environment variable {variable} (api_key_env) must hold a key: printable ASCII without spaces"
        )
    return SecretStr(key)
