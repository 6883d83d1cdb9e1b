"""The weights of a guard in numpy, by our module names: for the native kernels and for preparing guards."""

# Shapes: O outputs; I inputs; L layers; K key/value heads; d head size.

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamward.errors import CheckpointError
from streamward.kernels.bfloat16 import from_bfloat16, to_bfloat16
from streamward.kernels.quantization import QuantizedWeight, dequantize
from streamward.model.checkpoint_files import open_checkpoint
from streamward.model.config import ModelConfig, parse_model_config
from streamward.model.config_file import read_config
from streamward.model.guard_config import GuardConfig, is_stream_checkpoint, parse_guard_config
from streamward.model.tensor_file import TensorFile
from streamward.model.weights import ParamMapping, decoder_params, head_params, lm_head_param

Weight = NDArray[np.uint16] | QuantizedWeight
"""A matrix [O, I] in bfloat16, or in 8 bits with a scale per 64 inputs."""
EMBEDDING = "decoder.embed.weight"
LM_HEAD = "lm_head.weight"


class KeyBasis(NamedTuple):
    """The basis of keys and queries for the 8-bit cache, float32 [L, K, d]; see `kernels.decoder.key_basis`."""

    mean_key: NDArray[np.float32]
    outlier_direction: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelParameters:
    """A Stream guard, or a causal language model.

    Attributes:
        config: Shape of the decoder.
        guard: Shape and labels of the heads; None for a language model.
        weights: Matrices by module name; the rows of several blocks follow one another (q, k, v; gate, up).
        vectors: Weights of norms by module name, float32, as they multiply: Gemma's 1 is added.
        key_basis: Stored in prepared guards.
        files: Where weights and vectors are mapped from.
    """

    config: ModelConfig
    guard: GuardConfig | None
    weights: Mapping[str, tuple[Weight, ...]]
    vectors: Mapping[str, NDArray[np.float32]]
    key_basis: KeyBasis | None = None
    files: tuple[TensorFile, ...] = ()

    def bfloat16(self, name: str) -> NDArray[np.uint16]:
        """Return a matrix as bfloat16 [O, I], dequantized if need be."""
        blocks = [
            block if isinstance(block, np.ndarray) else to_bfloat16(dequantize(block)) for block in self.weights[name]
        ]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def release_pages(self) -> None:
        """Give back the memory of files whose weights were packed; what is still read comes from the file again."""
        for file in self.files:
            file.release_pages()


def parameter_mappings(
    config: ModelConfig, guard: GuardConfig | None, *, has_lm_head: bool = False
) -> list[ParamMapping]:
    """Return every tensor of a model: decoder, and token heads or, if it is not tied, the language-model head."""
    heads: Iterable[ParamMapping] = ()
    if guard is not None:
        heads = head_params(config, guard)
    elif has_lm_head and not config.has_tied_embeddings:
        heads = (lm_head_param(config),)
    return [*decoder_params(config), *heads]


def read_shapes(folder: Path) -> tuple[dict[str, Any], ModelConfig, GuardConfig | None]:  # Any: JSON values
    """Read `config.json`: its keys, the decoder's shape, and the heads' if it is a Stream guard.

    Raises:
        CheckpointError: A key is missing, or asks for something that is not supported.
    """
    raw = read_config(folder)
    return raw, parse_model_config(raw), parse_guard_config(raw) if is_stream_checkpoint(raw) else None


def load_published(folder: Path) -> ModelParameters:
    """Map a checkpoint in the layout of Qwen3Guard-Stream, or of a causal language model, as bfloat16.

    Raises:
        CheckpointError: A file or tensor is missing, unknown, misshapen or damaged.
    """
    _, config, guard = read_shapes(folder)
    mappings = parameter_mappings(config, guard, has_lm_head=True)
    files = open_checkpoint(folder, mappings, unused={lm_head_param(config).published})
    blocks: dict[str, list[tuple[int, Weight]]] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    for mapping in mappings:
        file = files[mapping.published]
        if len(mapping.shape) == 1:
            vectors[mapping.module] = file.floats(mapping.published) + np.float32(mapping.offset)
        else:
            blocks.setdefault(mapping.module, []).append((mapping.first_row, file.bfloat16(mapping.published)))
    weights = {name: tuple(block for _, block in sorted(found, key=_first)) for name, found in blocks.items()}
    return ModelParameters(config, guard, weights, vectors, files=tuple(set(files.values())))


def _first(item: tuple[int, Weight]) -> int:
    return item[0]


def module_shapes(mappings: Iterable[ParamMapping]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of our parameters, which may hold several published tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for mapping in mappings:
        rows = shapes.get(mapping.module, (0,))[0]
        shapes[mapping.module] = (rows + mapping.shape[0], *mapping.shape[1:])
    return shapes


def embedding_scale(config: ModelConfig) -> float:
    """Return what embeddings are multiplied with: Gemma's sqrt(hidden size), rounded to bfloat16 as in its training."""
    if not config.is_gemma:
        return 1.0
    return float(from_bfloat16(to_bfloat16(np.array([config.hidden_size**0.5], np.float32)))[0])


def check_finite(parameters: ModelParameters) -> None:
    """Raise a CheckpointError if a norm has a weight that is not finite: preparing such a guard would hide it."""
    for name, vector in parameters.vectors.items():
        if not np.isfinite(vector).all():
            raise CheckpointError(f"{name} has values that are not finite; the checkpoint is damaged")
