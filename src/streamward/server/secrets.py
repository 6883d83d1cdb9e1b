"""The keys that a service is given in its environment."""

from streamward.server.config import ServeConfig, read_secret
from streamward.server.key_strength import check_strength


def read_admin_key(config: ServeConfig) -> str | None:
    """Return the admin key of the environment; None if the settings name none.

    Raises:
        ConfigError: It is not set, or too easily guessed.
    """
    name = config.auth.admin_key_env
    if name is None:
        return None
    key = read_secret(name, setting="auth.admin_key_env")
    check_strength(key, setting=f"the environment variable {name} (auth.admin_key_env)")
    return key


def read_hash_key(config: ServeConfig) -> str | None:
    """Return the key that hashes of texts are made with; None if the settings name none.

    Raises:
        ConfigError: It is not set.
    """
    name = config.audit.hash_key_env
    return None if name is None else read_secret(name, setting="audit.hash_key_env")
