"""Additions of training to a base: low-rank updates of its projections, and heads. One safetensors file. No torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamward.errors import CheckpointError
from streamward.kernels.bfloat16 import from_bfloat16, to_bfloat16
from streamward.model.config import ModelConfig, model_config_keys
from streamward.model.config_file import read_config
from streamward.model.guard_config import GuardConfig, guard_config_keys
from streamward.model.parameters import ModelParameters, Weight, module_shapes, parameter_mappings
from streamward.model.tensor_file import TensorFile, save_tensors

ADAPTER_FILE = "adapter.safetensors"
HEAD_PREFIXES = ("prompt_heads.", "response_heads.")


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank updates and heads by name in `GuardModel`.

    Attributes:
        base: Name of the base the updates belong to.
        scale: alpha / rank of the updates (Hu et al., arXiv 2106.09685).
        has_rounded_weights: Whether the merged weights are rounded so that 8 bits represent them exactly.
        tensors: `decoder.layers.N.NAME.lora_a` [rank, in], `.lora_b` [out, rank], and the heads' weights; float32.
    """

    base: str
    scale: float
    tensors: Mapping[str, NDArray[np.float32]]
    has_rounded_weights: bool = False


def save_adapter(
    folder: Path, adapter: Adapter, *, model_config: ModelConfig, guard_config: GuardConfig | None = None
) -> None:
    """Write `adapter.safetensors` (float16 updates, float32 heads) and `config.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {  # Any: either precision
        name: tensor if name.startswith(HEAD_PREFIXES) else tensor.astype(np.float16)
        for name, tensor in adapter.tensors.items()
    }
    save_tensors(folder / ADAPTER_FILE, tensors)
    keys: dict[str, Any] = model_config_keys(model_config)
    if guard_config is not None:
        keys |= guard_config_keys(guard_config)
    keys["streamward"] = {**keys.get("streamward", {}), "base": adapter.base, "adapter_scale": adapter.scale}
    (folder / "config.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")


def load_adapter(folder: Path) -> Adapter:
    """Read an adapter.

    Raises:
        CheckpointError: A file is missing or damaged, or the config names no base.
    """
    own = read_config(folder).get("streamward", {})
    try:
        file = TensorFile(folder / ADAPTER_FILE)
        tensors = {name: file.floats(name) for name in file.names}
        adapter = Adapter(str(own["base"]), float(own["adapter_scale"]), tensors, own.get("rounded_weights", False))
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"{folder / ADAPTER_FILE} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json: streamward needs base and adapter_scale") from error
    if type(adapter.has_rounded_weights) is not bool:
        raise CheckpointError(f"{folder}/config.json: streamward.rounded_weights must be true or false")
    return adapter


def merge_adapter(
    folder: Path, base: ModelParameters, *, model_config: ModelConfig, guard_config: GuardConfig | None
) -> ModelParameters:
    """Return the guard of an adapter's folder over its base, in bfloat16.

    Args:
        folder: Holds the adapter and its config.
        base: A causal language model with at least as many layers as the guard.
        model_config: Shape of the guard's decoder.
        guard_config: Shape of its heads; None for a Gen guard, which has the base's language-model head.

    Raises:
        CheckpointError: A tensor is missing, unknown or of another shape.
    """
    adapter = load_adapter(folder)
    mappings = parameter_mappings(model_config, guard_config, has_lm_head=True)
    shapes = module_shapes(mappings)
    weights: dict[str, tuple[Weight, ...]] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    used: set[str] = set()
    for name, shape in shapes.items():
        if name.startswith(HEAD_PREFIXES):
            value = _tensor(adapter, name, shape, folder)
            used.add(name)
            if len(shape) == 1:
                vectors[name] = from_bfloat16(to_bfloat16(value))
            else:
                weights[name] = (to_bfloat16(value),)
        elif len(shape) == 1:
            vectors[name] = base.vectors[name]
        else:
            weights[name] = (_merged(adapter, name, base.bfloat16(name), folder, used),)
    unknown = sorted(set(adapter.tensors) - used)
    if unknown:
        raise CheckpointError(f"{folder / ADAPTER_FILE} does not fit its config: {unknown[0]} has no place")
    return ModelParameters(model_config, guard_config, weights, vectors)


def _merged(
    adapter: Adapter, name: str, weight: NDArray[np.uint16], folder: Path, used: set[str]
) -> NDArray[np.uint16]:
    """Return weight + scale * B A, rounded to bfloat16 once.

    The product is computed in float64, so that its rounding does not depend on the order in which a BLAS adds.
    """
    module = name.removesuffix(".weight")
    if f"{module}.lora_a" not in adapter.tensors and f"{module}.lora_b" not in adapter.tensors:
        return weight
    rank = len(adapter.tensors[f"{module}.lora_a"]) if f"{module}.lora_a" in adapter.tensors else 1
    lora_a = _tensor(adapter, f"{module}.lora_a", (rank, weight.shape[1]), folder).astype(np.float64)
    lora_b = _tensor(adapter, f"{module}.lora_b", (weight.shape[0], rank), folder).astype(np.float64)
    used |= {f"{module}.lora_a", f"{module}.lora_b"}
    merged = from_bfloat16(weight).astype(np.float64) + adapter.scale * (lora_b @ lora_a)
    return to_bfloat16(merged.astype(np.float32))


def _tensor(adapter: Adapter, name: str, shape: tuple[int, ...], folder: Path) -> NDArray[np.float32]:
    value = adapter.tensors.get(name)
    if value is None:
        raise CheckpointError(f"{folder / ADAPTER_FILE} lacks {name}")
    if value.shape != shape:
        raise CheckpointError(
            f"{folder / ADAPTER_FILE} does not fit its config: {name} has shape {list(value.shape)};"
            f" expected {list(shape)}"
        )
    return value
