"""What training adds to a base: low-rank updates of its projections, and heads. One safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from streamward.errors import CheckpointError
from streamward.model.config import ModelConfig, model_config_keys
from streamward.model.config_file import read_config
from streamward.model.decoder import Decoder
from streamward.model.guard_config import guard_config_keys, parse_guard_config
from streamward.model.guard_model import CausalLM, GuardModel

ADAPTER_FILE = "adapter.safetensors"
HEAD_PREFIXES = ("prompt_heads.", "response_heads.")


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank updates and heads by name in `GuardModel`.

    Attributes:
        base: Name of the base the updates belong to.
        scale: alpha / rank of the updates (Hu et al., arXiv 2106.09685).
        has_rounded_weights: Whether the merged weights are rounded so that 8 bits hold them.
        tensors: `decoder.layers.N.NAME.lora_a` [rank, in], `.lora_b` [out, rank], and the heads' weights.
    """

    base: str
    scale: float
    tensors: Mapping[str, Tensor]
    has_rounded_weights: bool = False


def save_adapter(folder: Path, adapter: Adapter, *, model: GuardModel | CausalLM) -> None:
    """Write `adapter.safetensors` (float16 updates, float32 heads) and `config.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (tensor if name.startswith(HEAD_PREFIXES) else tensor.half()).detach().contiguous()
        for name, tensor in adapter.tensors.items()
    }
    save_file(tensors, folder / ADAPTER_FILE)
    keys: dict[str, Any] = model_config_keys(model.decoder.config)
    if isinstance(model, GuardModel):
        keys |= guard_config_keys(model.guard_config)
    keys["streamward"] = {**keys.get("streamward", {}), "base": adapter.base, "adapter_scale": adapter.scale}
    (folder / "config.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")


def load_adapter(folder: Path) -> Adapter:
    """Read an adapter.

    Raises:
        CheckpointError: A file is missing or broken, or the config names no base.
    """
    own = read_config(folder).get("streamward", {})
    try:
        tensors = load_file(folder / ADAPTER_FILE)
        adapter = Adapter(str(own["base"]), float(own["adapter_scale"]), tensors, own.get("rounded_weights", False))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / ADAPTER_FILE} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json: streamward needs base and adapter_scale") from error
    if type(adapter.has_rounded_weights) is not bool:
        raise CheckpointError(f"{folder}/config.json: streamward.rounded_weights must be true or false")
    return adapter


def build_guard(folder: Path, base: Decoder, *, model_config: ModelConfig) -> GuardModel:
    """Make the Stream guard of an adapter's folder over its base.

    Args:
        folder: Holds the adapter and its config.
        base: With at least as many layers as the guard; its tensors are copied.
        model_config: Shape of the guard's decoder.

    Raises:
        CheckpointError: A tensor is missing, unknown or of another shape.
    """
    adapter = load_adapter(folder)
    model = GuardModel(model_config, parse_guard_config(read_config(folder)))
    heads = {name: value for name, value in adapter.tensors.items() if name.startswith(HEAD_PREFIXES)}
    missing = sorted(name for name in model.state_dict().keys() - heads.keys() if name.startswith(HEAD_PREFIXES))
    if missing:
        raise CheckpointError(f"{folder / ADAPTER_FILE} lacks {missing[0]}")
    try:
        model.load_state_dict(heads, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / ADAPTER_FILE} does not fit its config: {error}") from error
    _merge_updates(model.decoder, base, adapter, folder=folder)
    return model


def build_gen(folder: Path, base: CausalLM, *, model_config: ModelConfig) -> CausalLM:
    """Make the Gen guard of an adapter's folder over its base; arguments and errors as for `build_guard`."""
    model = CausalLM(model_config)
    model.lm_head.load_state_dict(base.lm_head.state_dict())
    _merge_updates(model.decoder, base.decoder, load_adapter(folder), folder=folder)
    return model


def _merge_updates(decoder: Decoder, base: Decoder, adapter: Adapter, *, folder: Path) -> None:
    """Copy a base's lowest layers and add the updates to them."""
    wanted = decoder.state_dict().keys()
    decoder.load_state_dict({name: value for name, value in base.state_dict().items() if name in wanted})
    try:
        for name in sorted(name for name in adapter.tensors if name.endswith(".lora_a")):
            module = name.removesuffix(".lora_a")
            weight = decoder.get_parameter(f"{module.removeprefix('decoder.')}.weight")
            merge_update(weight, adapter.tensors[name], adapter.tensors[f"{module}.lora_b"], scale=adapter.scale)
    except (RuntimeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{folder / ADAPTER_FILE} does not fit its config: {error}") from error


@torch.no_grad()
def merge_update(weight: Tensor, lora_a: Tensor, lora_b: Tensor, *, scale: float) -> None:
    """Add scale * B A to a weight in place, computed in float32."""
    weight.copy_((weight.float() + scale * (lora_b.float() @ lora_a.float())).to(weight.dtype))
