"""Benchmark sets from the Hugging Face Hub: files only, never code."""

from pathlib import Path

from streamward.errors import ConfigError, InputError
from streamward.evals.registry import SetEntry, set_entries
from streamward.hub import hub_reason

HUB = "hub"
"""Given instead of a data folder."""


def hub_entries() -> list[SetEntry]:
    """Return the sets that can be had from the Hub."""
    return [entry for entry in set_entries() if entry.hub is not None]


def fetch_set(entry: SetEntry) -> list[Path]:
    """Download the files of a set, or find them in the Hub's own cache.

    Raises:
        InputError: The set is not there, needs permission, or there is no network.
        ConfigError: huggingface_hub is not installed.
    """
    if entry.hub is None:
        raise InputError(f"{entry.name} is not on the Hub; it comes from {entry.source}")
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise ConfigError("sets from the Hub need huggingface_hub; run: pip install 'streamward[hub]'") from error
    paths = []
    for name in entry.files:
        try:
            paths.append(Path(hf_hub_download(entry.hub, name, repo_type="dataset")))
        except Exception as error:  # its own kinds for every network, permission and name error
            raise InputError(
                f"{entry.name} cannot be fetched from the Hub ({entry.hub}, {name}): {hub_reason(error)};"
                f" some sets must be asked for at https://huggingface.co/datasets/{entry.hub}"
            ) from error
    return paths
