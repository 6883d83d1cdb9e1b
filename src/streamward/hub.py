"""Checkpoints from Hugging Face Hub and ModelScope. Weights and data only, never code."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from streamward.errors import CheckpointError, ConfigError

MODELSCOPE_PREFIX = "modelscope:"
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "README.md", "LICENSE*"]

_NO_NETWORK = (
    "it is not in the cache, and the hub cannot be reached; check the network, and whether HF_HUB_OFFLINE is set"
)
_NO_FILE = "there is no such file in it"
_REASONS = {
    "GatedRepoError": "it needs permission; ask for it on the hub's page, and set HF_TOKEN",
    "RepositoryNotFoundError": "there is no such repository, or it needs a login (HF_TOKEN); check the name",
    "RevisionNotFoundError": "there is no such revision of it",
    "LocalEntryNotFoundError": _NO_NETWORK,
    "RemoteEntryNotFoundError": _NO_FILE,
    "EntryNotFoundError": _NO_FILE,
    "OfflineModeIsEnabled": _NO_NETWORK,
    "HFValidationError": "that is no name a repository can have; write org/name",
    "NotExistError": "there is no such repository, or it needs a login; check the name",
    "LocalTokenNotFoundError": "it needs a login; set HF_TOKEN",
    "HfHubHTTPError": "the hub answered with an error; try again later",
    "HTTPError": "the hub answered with an error, or cannot be reached; try again later",
    "ConnectionError": _NO_NETWORK,
    "ConnectError": _NO_NETWORK,
    "TimeoutException": "the hub takes too long to answer; try again later",
    "Timeout": "the hub takes too long to answer; try again later",
    "OSError": "it cannot be written to the cache, or the hub cannot be reached",
}
"""Reasons for failures of a hub's library, by the name of the error or of one that it is a kind of."""


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
        raise CheckpointError(f"{path} cannot be fetched from {where}: {hub_reason(error)}") from error
    return Path(folder)


def hub_reason(error: Exception) -> str:
    """Return why a hub's library failed, in our words: its own texts hold addresses, and sometimes keys."""
    names = [kind.__name__ for kind in type(error).__mro__]
    reason = next((_REASONS[name] for name in names if name in _REASONS), None)
    return reason or "its library failed in a way that is not known; try again later"


def is_hub_id(name: str) -> bool:
    """Return whether a name can be one of a hub's."""
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
