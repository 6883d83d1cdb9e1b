"""Checkpoints from Hugging Face Hub and ModelScope. Weights and data only, never code."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from streamward.errors import CheckpointError, ConfigError

MODELSCOPE_PREFIX = "modelscope:"
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "README.md", "LICENSE*"]


def fetch(name: str) -> Path:
    """Download a checkpoint, or find it in the hub's own cache.

    Args:
        name: `org/name` for Hugging Face Hub or `modelscope:org/name`; `@revision` may follow.

    Returns:
        The folder.

    Raises:
        ConfigError: The hub's package is not installed.
        CheckpointError: There is no such repository, or it cannot be reached.
    """
    path, _, revision = name.removeprefix(MODELSCOPE_PREFIX).partition("@")
    is_modelscope = name.startswith(MODELSCOPE_PREFIX)
    library = _import(_library_of(name))
    try:
        folder = library.snapshot_download(path, revision=revision or None, allow_patterns=_PATTERNS)
    except Exception as error:  # both libraries raise their own kinds for every network and name error
        where = "ModelScope" if is_modelscope else "Hugging Face Hub"
        raise CheckpointError(f"{path} cannot be fetched from {where}: {type(error).__name__}") from error
    return Path(folder)


def is_hub_id(name: str) -> bool:
    """Whether a name can be one of a hub's."""
    return "/" in name and not Path(name).is_absolute() and not name.startswith((".", "~"))


def check_hub(name: str) -> None:
    """Look whether a checkpoint could be fetched, as far as that shows without asking the hub.

    Raises:
        ConfigError: The hub's package is not installed.
    """
    library = _library_of(name)
    if importlib.util.find_spec(library) is None:
        raise _missing(library)


def _library_of(name: str) -> str:
    return "modelscope" if name.startswith(MODELSCOPE_PREFIX) else "huggingface_hub"


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _missing(name) from error


def _missing(library: str) -> ConfigError:
    return ConfigError(f"this guard needs the package {library}; run: pip install 'streamward[hub]'")
