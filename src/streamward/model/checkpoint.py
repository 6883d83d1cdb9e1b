"""Checkpoint folders as torch modules and back: layouts of Qwen3Guard-Stream and -Gen, and prepared guards."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from streamward.model.checkpoint_files import INDEX_FILE, SINGLE_FILE, open_checkpoint
from streamward.model.config import parse_model_config
from streamward.model.config_file import read_config
from streamward.model.guard_config import parse_guard_config
from streamward.model.guard_model import CausalLM, GuardModel
from streamward.model.parameters import ModelParameters, parameter_mappings
from streamward.model.prepared import is_prepared_folder, load_prepared
from streamward.model.published import config_keys
from streamward.model.tensor_file import TensorFile
from streamward.model.torch_parameters import bfloat16_tensor
from streamward.model.weights import ParamMapping, lm_head_param, param_rows


def load_stream(folder: Path, *, dtype: torch.dtype) -> GuardModel:
    """Load a Stream guard; the 8-bit weights of a prepared one are dequantized.

    An `lm_head.weight` is ignored: the heads do not need it.

    Raises:
        CheckpointError: A file or tensor is missing, unknown, misshapen or damaged; names it and what was expected.
    """
    raw = read_config(folder)
    config, guard = parse_model_config(raw), parse_guard_config(raw)
    with torch.device("meta"):
        model = GuardModel(config, guard)
    _load(model, folder, parameter_mappings(config, guard), unused={lm_head_param(config).published}, dtype=dtype)
    return model


def load_gen(folder: Path, *, dtype: torch.dtype) -> CausalLM:
    """Load a Gen guard, or any causal language model of the three families.

    Raises:
        CheckpointError: As for `load_stream`.
    """
    config = parse_model_config(read_config(folder))
    unused = {lm_head_param(config).published} if config.has_tied_embeddings else set[str]()
    with torch.device("meta"):
        model = CausalLM(config)
    _load(model, folder, parameter_mappings(config, None, has_lm_head=True), unused=unused, dtype=dtype)
    if config.has_tied_embeddings:
        model.lm_head.weight = model.decoder.embed.weight
    return model


def save_checkpoint(model: GuardModel | CausalLM, folder: Path, *, max_shard_bytes: int = 5 * 10**9) -> None:
    """Write weights and `config.json` in the published layout; the tokenizer is the caller's to copy.

    Args:
        model: In the dtype to be saved.
        folder: Created if it does not exist.
        max_shard_bytes: Above this the weights are split over several files with an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.decoder.config
    guard = model.guard_config if isinstance(model, GuardModel) else None
    parameters = dict(model.named_parameters())
    tensors = {
        mapping.published: _published(parameters[mapping.module].detach(), mapping)
        for mapping in parameter_mappings(config, guard, has_lm_head=True)
    }
    _write_shards(tensors, folder, max_shard_bytes=max_shard_bytes)
    keys = config_keys(config, guard, dtype=str(model.decoder.embed.weight.dtype).removeprefix("torch."))
    (folder / "config.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")


def _published(parameter: Tensor, mapping: ParamMapping) -> Tensor:
    values = parameter[param_rows(mapping)].contiguous()
    return values if not mapping.offset else (values.float() - mapping.offset).to(values.dtype)


def _write_shards(tensors: Mapping[str, Tensor], folder: Path, *, max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.clone()
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE_FILE, metadata={"format": "pt"})
        (folder / INDEX_FILE).unlink(missing_ok=True)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (folder / SINGLE_FILE).unlink(missing_ok=True)  # one of an earlier save would be read instead


def _load(
    model: nn.Module, folder: Path, mappings: list[ParamMapping], *, unused: set[str], dtype: torch.dtype
) -> None:
    """Give a model on the meta device its weights, one tensor at a time."""
    prepared = load_prepared(folder) if is_prepared_folder(folder) else None
    files = {} if prepared is not None else open_checkpoint(folder, mappings, unused=unused)
    parameters = dict(model.named_parameters())
    for name in {mapping.module for mapping in mappings}:
        owner, _, attribute = name.rpartition(".")
        values = nn.Parameter(torch.empty(parameters[name].shape, dtype=dtype, device="cpu"), requires_grad=False)
        setattr(model.get_submodule(owner), attribute, values)
        parameters[name] = values
    for mapping in mappings:
        found = _stored(files[mapping.published], mapping) if prepared is None else _of_prepared(prepared, mapping)
        parameters[mapping.module].data[param_rows(mapping)].copy_(found)
    model.eval()


def _stored(file: TensorFile, mapping: ParamMapping) -> Tensor:
    array = file.array(mapping.published).copy()  # torch warns of memory that it must not write to
    is_bfloat16 = file.dtype(mapping.published) == "BF16"
    values = torch.from_numpy(array.view("<i2")).view(torch.bfloat16) if is_bfloat16 else torch.from_numpy(array)
    return values.float() + mapping.offset if mapping.offset else values


def _of_prepared(parameters: ModelParameters, mapping: ParamMapping) -> Tensor:
    rows = param_rows(mapping)
    if len(mapping.shape) == 1:
        return torch.from_numpy(parameters.vectors[mapping.module][rows].copy())
    return bfloat16_tensor(parameters.bfloat16(mapping.module)[rows])
