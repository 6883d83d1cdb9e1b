"""Checkpoints from Hugging Face Hub and ModelScope. Weights and data only, never code."""

import importlib
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
    library = _import("modelscope" if is_modelscope else "huggingface_hub")
    try:
        folder = library.snapshot_download(path, revision=revision or None, allow_patterns=_PATTERNS)
    except Exception as error:  # both libraries raise their own kinds for every network and name error
        where = "ModelScope" if is_modelscope else "Hugging Face Hub"
        raise CheckpointError(f"{path} cannot be fetched from {where}: {type(error).__name__}") from error
    return Path(folder)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this guard needs the package {name}; run: pip install 'streamward[hub]'") from error
