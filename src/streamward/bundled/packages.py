"""Guards that are installed as packages, such as `streamward-guard-stream-135m`.

A guard package has an entry point of the group `streamward.guards`: its name is the guard's, its value a module. The
folder of the module holds what `model.prepared` describes (weights in 8 bits, `config.json`), the tokenizer with its
chat template, and the guard's card, `README.md`. Nothing of the module is imported.
"""

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from streamward.errors import CheckpointError
from streamward.model.prepared import is_prepared_folder

ENTRY_POINT_GROUP = "streamward.guards"
DISTRIBUTION_PREFIX = "streamward-guard-"


def packaged_guards() -> list[str]:
    """Return the names of the guards that are installed as packages."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})


def packaged_folder(name: str) -> Path:
    """Return the folder of a guard that is installed as a package.

    Args:
        name: One of `packaged_guards()`.

    Raises:
        CheckpointError: The package is damaged: its module or the weights are missing.
    """
    entry = min(entry_points(group=ENTRY_POINT_GROUP, name=name), key=lambda entry: entry.value)
    spec = importlib.util.find_spec(entry.module)
    if spec is not None and spec.origin is not None and is_prepared_folder(Path(spec.origin).parent):
        return Path(spec.origin).parent
    package = entry.dist.name if entry.dist is not None else DISTRIBUTION_PREFIX + name
    raise CheckpointError(f"the package {package} is damaged: the weights of {name} are missing; install it again")
