"""Checkpoint folders: safetensors in, modules out, and back. Published layouts of Qwen3Guard-Stream and -Gen."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from streamward.errors import CheckpointError
from streamward.model.config import model_config_keys, parse_model_config
from streamward.model.config_file import read_config
from streamward.model.guard_config import guard_config_keys, parse_guard_config
from streamward.model.guard_model import CausalLM, GuardModel
from streamward.model.weights import ParamMapping, decoder_params, head_params, lm_head_param, param_rows

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_ARCHITECTURES = {"qwen3": "Qwen3", "llama": "Llama", "gemma3_text": "Gemma3"}
_SHOWN_NAMES = 5
_DTYPES = ("BF16", "F16", "F32", "F64")  # as safetensors spells them


def load_stream(folder: Path, *, dtype: torch.dtype) -> GuardModel:
    """Load a Stream guard.

    An `lm_head.weight` is left aside: the heads do not need it.

    Raises:
        CheckpointError: A file or tensor is missing, unknown, misshapen or damaged; names it and what was expected.
    """
    raw = read_config(folder)
    config, guard = parse_model_config(raw), parse_guard_config(raw)
    mappings = [*decoder_params(config), *head_params(config, guard)]
    with _opened(folder, mappings, unused={lm_head_param(config).published}) as files:
        with torch.device("meta"):
            model = GuardModel(config, guard)
        _fill(model, files, mappings, dtype=dtype)
    return model


def load_gen(folder: Path, *, dtype: torch.dtype) -> CausalLM:
    """Load a Gen guard, or any causal language model of the three families.

    Raises:
        CheckpointError: As for `load_stream`.
    """
    config = parse_model_config(read_config(folder))
    mappings, unused = [*decoder_params(config)], set[str]()
    if config.has_tied_embeddings:
        unused = {lm_head_param(config).published}
    else:
        mappings.append(lm_head_param(config))
    with _opened(folder, mappings, unused=unused) as files:
        with torch.device("meta"):
            model = CausalLM(config)
        _fill(model, files, mappings, dtype=dtype)
    if config.has_tied_embeddings:
        model.lm_head.weight = model.decoder.embed.weight
    return model


def save_checkpoint(model: GuardModel | CausalLM, folder: Path, *, max_shard_bytes: int = 5 * 10**9) -> None:
    """Write weights and `config.json` in the published layout; the tokenizer is the caller's to copy.

    Args:
        model: In the dtype to be saved.
        folder: Made if it does not exist.
        max_shard_bytes: Above this the weights are split over several files with an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.decoder.config
    mappings = [*decoder_params(config)]
    keys: dict[str, Any] = model_config_keys(config)
    if isinstance(model, GuardModel):
        mappings += head_params(config, model.guard_config)
        keys |= guard_config_keys(model.guard_config)
    elif not config.has_tied_embeddings:
        mappings.append(lm_head_param(config))
    kind = "ForGuardModel" if isinstance(model, GuardModel) else "ForCausalLM"
    keys["architectures"] = [f"{_ARCHITECTURES[config.family]}{kind}"]
    keys["torch_dtype"] = str(model.decoder.embed.weight.dtype).removeprefix("torch.")
    parameters = dict(model.named_parameters())
    tensors = {mapping.published: _published(parameters[mapping.module].detach(), mapping) for mapping in mappings}
    _write_shards(tensors, folder, max_shard_bytes=max_shard_bytes)
    (folder / "config.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")


def _published(parameter: Tensor, mapping: ParamMapping) -> Tensor:
    values = param_rows(parameter, mapping).contiguous()
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


def _fill(model: nn.Module, files: Mapping[str, Any], mappings: Sequence[ParamMapping], *, dtype: torch.dtype) -> None:
    """Give a model on the meta device its weights, one tensor at a time."""
    parameters = dict(model.named_parameters())
    for name in {mapping.module for mapping in mappings}:
        owner, _, attribute = name.rpartition(".")
        values = nn.Parameter(torch.empty(parameters[name].shape, dtype=dtype, device="cpu"), requires_grad=False)
        setattr(model.get_submodule(owner), attribute, values)
        parameters[name] = values
    for mapping in mappings:
        try:
            stored = files[mapping.published].get_tensor(mapping.published)
            param_rows(parameters[mapping.module].data, mapping).copy_(
                stored.float() + mapping.offset if mapping.offset else stored
            )
        except SafetensorError as error:
            raise CheckpointError(f"{mapping.published} cannot be read: {error}") from error
    model.eval()


@contextmanager
def _opened(folder: Path, mappings: Sequence[ParamMapping], *, unused: set[str]) -> Iterator[Mapping[str, Any]]:
    """Open a checkpoint's files and check every tensor's name, shape and dtype before any memory is taken."""
    with ExitStack() as stack:
        files = _open(folder, stack)
        _check_names(files.keys(), mappings, unused=unused, folder=folder)
        for mapping in mappings:
            stored = files[mapping.published].get_slice(mapping.published)
            shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
            if shape != mapping.shape:
                raise CheckpointError(
                    f"{folder}: {mapping.published} has shape {list(shape)}; expected {list(mapping.shape)}"
                )
            if dtype not in _DTYPES:
                raise CheckpointError(
                    f"{folder}: {mapping.published} is of {dtype}; expected one of {', '.join(_DTYPES)}"
                )
        yield files


def _open(folder: Path, stack: ExitStack) -> dict[str, Any]:  # Any: safetensors' open files are untyped
    """Map each tensor's name to the open file that holds it."""
    found: dict[str, Any] = {}
    for path in _weight_files(folder):
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing; {INDEX_FILE} names it") from error
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
        for name in file.keys():  # noqa: SIM118  # not a mapping
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
            f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors is read"
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
