"""Prepared guards: one file with 8-bit weights, ready for the kernels. Loading it is mapping it.

The file is safetensors. A matrix NAME is int8 [O, I] with `NAME.scales`, bfloat16 [O, I / 64]; the integers are within
+-127 and the Hadamard transform of each 64 inputs is applied. A matrix without scales is bfloat16: heads, and the
layers that must not be rounded (`streamward.exact_layers` in `config.json`). Norms are float32 as they multiply.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamward.errors import CheckpointError
from streamward.kernels.quantization import GROUP, QuantizedWeight
from streamward.model.parameters import (
    KeyBasis,
    ModelParameters,
    Weight,
    module_shapes,
    parameter_mappings,
    read_shapes,
)
from streamward.model.tensor_file import Array, TensorFile, save_tensors

PREPARED_FILE = "model.int8.safetensors"
_FORMAT = {"format": "streamward-int8", "version": "1"}
_SCALES = ".scales"
_KEY_BASIS = ("key_basis.mean_key", "key_basis.outlier_direction")


def is_prepared_folder(folder: Path) -> bool:
    """Return whether a folder holds a prepared guard."""
    return (folder / PREPARED_FILE).exists()


def save_prepared(parameters: ModelParameters, folder: Path) -> None:
    """Write the weights into a folder; `config.json` and the tokenizer are the caller's to write."""
    tensors: dict[str, Array] = dict(parameters.vectors)
    for name, blocks in parameters.weights.items():
        (block,) = blocks
        if isinstance(block, QuantizedWeight):
            tensors |= {name: block.values, name + _SCALES: block.scales}
        else:
            tensors[name] = block
    if parameters.key_basis is not None:
        tensors |= dict(zip(_KEY_BASIS, parameters.key_basis, strict=True))
    save_tensors(folder / PREPARED_FILE, tensors, metadata=_FORMAT)


def load_prepared(folder: Path) -> ModelParameters:
    """Map a prepared guard.

    Raises:
        CheckpointError: A file or tensor is missing, unknown, misshapen or damaged, or of another version.
    """
    _, config, guard = read_shapes(folder)
    try:
        file = TensorFile(folder / PREPARED_FILE)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder / PREPARED_FILE} is missing; the guard was not prepared") from error
    if {key: file.metadata.get(key) for key in _FORMAT} != _FORMAT:
        raise CheckpointError(
            f"{file.path} is of format {file.metadata.get('format')!r}, version {file.metadata.get('version')!r};"
            f" expected {_FORMAT['format']}, version {_FORMAT['version']}; prepare the guard again"
        )
    shapes = module_shapes(parameter_mappings(config, guard, has_lm_head=True))
    weights = {name: (_matrix(file, name, shape),) for name, shape in shapes.items() if len(shape) == 2}
    vectors = {
        name: np.asarray(_checked(file, name, shape, "F32"), np.float32)
        for name, shape in shapes.items()
        if len(shape) == 1
    }
    _check_names(file, weights, vectors)
    basis = None
    if all(name in file for name in _KEY_BASIS):
        shape = (config.num_layers, config.num_kv_heads, config.head_dim)
        basis = KeyBasis(*(_checked(file, name, shape, "F32") for name in _KEY_BASIS))
    return ModelParameters(config, guard, weights, vectors, basis, files=(file,))


def exact_layers(parameters: ModelParameters) -> list[str]:
    """Return the decoder's matrices that are not rounded to 8 bits."""
    return sorted(
        name.removesuffix(".weight")
        for name, blocks in parameters.weights.items()
        if name.startswith("decoder.layers.") and not isinstance(blocks[0], QuantizedWeight)
    )


def _matrix(file: TensorFile, name: str, shape: tuple[int, ...]) -> Weight:
    if name + _SCALES not in file:
        exact: NDArray[np.uint16] = _checked(file, name, shape, "BF16")
        return exact
    scales = _checked(file, name + _SCALES, (shape[0], shape[1] // GROUP), "BF16")
    return QuantizedWeight(_checked(file, name, shape, "I8"), scales)


def _checked(file: TensorFile, name: str, shape: tuple[int, ...], dtype: str) -> Any:  # Any: an array of that dtype
    if name not in file:
        raise CheckpointError(f"{file.path} lacks {name}")
    if file.shape(name) != shape or file.dtype(name) != dtype:
        raise CheckpointError(
            f"{file.path}: {name} is {file.dtype(name)} {list(file.shape(name))}; expected {dtype} {list(shape)}"
        )
    return file.array(name)


def _check_names(file: TensorFile, weights: Mapping[str, Any], vectors: Mapping[str, Any]) -> None:
    known = {*weights, *vectors, *(name + _SCALES for name in weights), *_KEY_BASIS}
    unknown = sorted(set(file.names) - known)
    if unknown:
        raise CheckpointError(f"{file.path} has the unknown tensor {unknown[0]}")
