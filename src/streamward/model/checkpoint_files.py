"""Opens the safetensors files of a checkpoint folder and checks every tensor before any memory is taken."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from streamward.errors import CheckpointError
from streamward.model.tensor_file import FLOATS, TensorFile
from streamward.model.weights import ParamMapping

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_SHOWN_NAMES = 5


def open_checkpoint(folder: Path, mappings: Sequence[ParamMapping], *, unused: set[str]) -> Mapping[str, TensorFile]:
    """Return the file that holds each published tensor.

    Args:
        folder: Holds `model.safetensors`, or an index and its shards.
        mappings: Every tensor that must be there.
        unused: Tensors that may be there too.

    Raises:
        CheckpointError: A file or tensor is missing, unknown, misshapen or damaged; names it and what was expected.
    """
    files = _open(folder)
    _check_names(files.keys(), mappings, unused=unused, folder=folder)
    for mapping in mappings:
        file, name = files[mapping.published], mapping.published
        if file.shape(name) != mapping.shape:
            raise CheckpointError(
                f"{folder}: {name} has shape {list(file.shape(name))}; expected {list(mapping.shape)}"
            )
        if file.dtype(name) not in FLOATS:
            raise CheckpointError(f"{folder}: {name} is of {file.dtype(name)}; expected one of {', '.join(FLOATS)}")
    return files


def _open(folder: Path) -> dict[str, TensorFile]:
    found: dict[str, TensorFile] = {}
    for path in _weight_files(folder):
        try:
            file = TensorFile(path)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing; {INDEX_FILE} names it") from error
        for name in file.names:
            if name in found:
                raise CheckpointError(f"{path}: {name} is in two files of the checkpoint")
            found[name] = file
    return found


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    index = folder / INDEX_FILE
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} contains neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors is read"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} must be JSON with a weight_map of tensor names to files") from error
    outside = [name for name in names if Path(name).name != name or name in ("", "..")]
    if outside:
        raise CheckpointError(f"{index} names {outside[0]!r}; files must lie in the checkpoint's folder")
    return [folder / name for name in names]


def _check_names(found: Iterable[str], mappings: Iterable[ParamMapping], *, unused: set[str], folder: Path) -> None:
    names, expected = set(found), {mapping.published for mapping in mappings}
    for kind, left in (("lacks", expected - names), ("has unknown", names - expected - unused)):
        if left:
            shown = ", ".join(sorted(left)[:_SHOWN_NAMES])
            more = f" and {len(left) - _SHOWN_NAMES} more" if len(left) > _SHOWN_NAMES else ""
            raise CheckpointError(f"{folder} {kind} {len(left)} of {len(expected)} tensors: {shown}{more}")
