"""The start of a training run: a base, or a guard trained before."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import nn

from streamward.bundled.adapter import ADAPTER_FILE, Adapter, load_adapter
from streamward.bundled.base import find_base
from streamward.bundled.embedded import embedded_guards, guard_folder, template_file
from streamward.errors import CheckpointError, ConfigError
from streamward.model.checkpoint import load_gen
from streamward.model.config import ModelConfig, parse_model_config
from streamward.model.config_file import read_config
from streamward.model.decoder import Decoder
from streamward.model.guard_config import is_stream_checkpoint
from streamward.tokenizer import TOKENIZER_FILE, GuardTokenizer
from streamward.train.config import LoraConfig, RunConfig
from streamward.train.trainer import trained_tensors

Config = TypeVar("Config", bound=RunConfig)
_CHATML_MARKS = ("<|im_start|>", "<|im_end|>")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "*.pt", "*.bin")


def init_folder(config: RunConfig) -> Path | None:
    """Return the folder of the guard a run starts from.

    Raises:
        CheckpointError: There is no such guard.
    """
    if config.init is None:
        return None
    return guard_source(config.init)


def guard_source(name: str) -> Path:
    """Return the folder of a guard as it was written: an adapter's, or a whole checkpoint's.

    Raises:
        CheckpointError: There is no such guard.
    """
    folder = guard_folder(name) if name in embedded_guards() else Path(name)
    if not folder.is_dir():
        raise CheckpointError(f"there is no guard {name!r}; give {', '.join(embedded_guards())} or a folder")
    return folder


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds updates of a base, rather than a whole checkpoint."""
    return (folder / ADAPTER_FILE).exists()


def shaped_as_init(config: Config) -> Config:
    """Take from an adapter to start from what the run's settings leave open: base, layers, rank and heads.

    Raises:
        CheckpointError: There is no such guard, or it is damaged.
    """
    folder = init_folder(config)
    if folder is None or not is_adapter(folder):
        return config
    adapter, raw = load_adapter(folder), read_config(folder)
    rank = next((len(value) for name, value in adapter.tensors.items() if name.endswith(".lora_a")), config.lora.rank)
    found: dict[str, Any] = {  # Any: values of several settings
        "base": adapter.base,
        "num_layers": parse_model_config(raw).num_layers,
        "lora": LoraConfig(rank=rank, alpha=adapter.scale * rank),
        "inner_size": raw.get("guard_inner_size"),
    }
    known = type(config).model_fields.keys() - config.model_fields_set
    return config.model_copy(update={key: value for key, value in found.items() if key in known and value is not None})


def base_folder(config: RunConfig) -> Path:
    """Return the base's folder, prepared if it is the embedded one."""
    return find_base(config.base)


def run_tokenizer(folder: Path, *, is_gen: bool) -> GuardTokenizer:
    """Read a folder's tokenizer, under the template of our own guards."""
    path = folder / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every defect of a file
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    is_gemma = tokenizer.token_to_id("<start_of_turn>") is not None
    if not is_gemma and (missing := [mark for mark in _CHATML_MARKS if tokenizer.token_to_id(mark) is None]):
        raise ConfigError(
            f"the base's tokenizer lacks {missing[0]}; only bases with the markers of ChatML or Gemma can be trained"
        )
    return GuardTokenizer(tokenizer, template_file(is_gen=is_gen, is_gemma=is_gemma).read_text(encoding="utf-8"))


def base_decoder(folder: Path) -> Decoder:
    """Load a base's decoder in bfloat16."""
    return load_gen(folder, dtype=torch.bfloat16).decoder


def model_shape(config: RunConfig, base: ModelConfig) -> ModelConfig:
    """Return the shape of a guard over the lowest layers of a base.

    Raises:
        ConfigError: The base has fewer layers than asked for.
    """
    num_layers = config.num_layers or base.num_layers
    if num_layers > base.num_layers:
        raise ConfigError(f"num_layers is {num_layers}; the base has {base.num_layers}")
    return dataclasses.replace(base, num_layers=num_layers)


def copy_layers(base: Decoder, decoder: Decoder) -> None:
    """Give a decoder the lowest layers of its base, in bfloat16."""
    wanted = decoder.state_dict().keys()
    decoder.load_state_dict({name: value for name, value in base.state_dict().items() if name in wanted})
    decoder.to(torch.bfloat16)


def start_from(folder: Path, model: nn.Module, *, only_updates: bool = False) -> None:
    """Give a model in training the updates, and the heads, of an adapter trained before.

    Args:
        folder: Folder of the adapter. If it has more layers than the model, its lowest are taken.
        model: With low-rank updates already in place.
        only_updates: Leave heads aside: a Gen guard may start from a Stream guard.

    Raises:
        CheckpointError: There is none in the folder.
        ConfigError: It has another shape.
    """
    wanted = trained_tensors(model)
    tensors = {name: torch.from_numpy(value) for name, value in load_adapter(folder).tensors.items()}
    if only_updates:
        tensors = {name: value for name, value in tensors.items() if name.startswith("decoder.")}
    higher = {name for name in tensors.keys() - wanted.keys() if name.startswith("decoder.layers.")}
    tensors = {name: value for name, value in tensors.items() if name not in higher}
    if {name: value.shape for name, value in tensors.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ConfigError(f"the guard in {folder} has fewer layers, or another rank or heads, than this run")
    model.load_state_dict(tensors, strict=False)


def new_adapter(config: RunConfig, model: nn.Module) -> Adapter:
    """Return what training has added to the base."""
    tensors = {name: value.detach().float().cpu().numpy() for name, value in trained_tensors(model).items()}
    return Adapter(config.base, config.lora.alpha / config.lora.rank, tensors)


def copy_tokenizer_files(source: Path, folder: Path) -> None:
    """Copy a checkpoint's tokenizer, template and whatever else is not weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() == source.resolve():
        return
    for path in source.iterdir():
        if path.is_file() and not any(path.match(pattern) for pattern in _WEIGHTS):
            shutil.copy(path, folder)


def is_stream_folder(folder: Path) -> bool:
    """Return whether a folder holds a Stream guard."""
    return is_stream_checkpoint(read_config(folder))
