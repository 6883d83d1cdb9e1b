"""Packages that only some detectors need."""

import importlib
from types import ModuleType

from streamward.errors import ConfigError


def import_extra(module: str, *, what: str) -> ModuleType:
    """Import a module of the extra `pii`.

    Args:
        module: Its name.
        what: Needs it, for the message.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{what} needs the extra pii; install it with: pip install 'streamward[pii]'") from error
