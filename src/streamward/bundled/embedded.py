"""The guards this package carries: adapters over the embedded base, merged once and kept in the cache."""

import dataclasses
import hashlib
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import torch

from streamward.bundled.adapter import ADAPTER_FILE, build_gen, build_guard, load_adapter
from streamward.bundled.base import cache_folder, find_base, install_folder, staging_folder
from streamward.errors import ConfigError
from streamward.model.checkpoint import load_gen, save_checkpoint
from streamward.model.config import parse_model_config
from streamward.model.config_file import read_config
from streamward.model.fake_quantization import fake_quantize_weights
from streamward.model.guard_config import is_stream_checkpoint
from streamward.model.guard_model import CausalLM, GuardModel

DEFAULT_GUARD = "stream-135m"
_LAYOUT_VERSION = b"1"  # raise it when prepared folders change in a way the adapter's hash does not show


def embedded_guards() -> list[str]:
    """Return the names of the guards that ship with the package."""
    with as_file(files("streamward.bundled")) as folder:
        return sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER_FILE}"))


def guard_folder(name: str) -> Path:
    """Return the folder of an embedded guard's adapter, config and card.

    Raises:
        ConfigError: There is no guard of this name.
    """
    names = embedded_guards()
    if name not in names:
        raise ConfigError(f"there is no embedded guard {name!r}; there are {', '.join(names)}")
    with as_file(files("streamward.bundled")) as folder:
        return folder / name


def prepare_guard(name: str) -> Path:
    """Return an embedded guard as a checkpoint folder in the published layout.

    The first call merges the adapter into the base (some seconds); later ones find the folder in the cache.

    Raises:
        ConfigError: There is no guard of this name.
        CheckpointError: The base or the adapter is missing or damaged.
    """
    source = guard_folder(name)
    return prepare_adapter(source)


def is_prepared(name: str) -> bool:
    """Whether an embedded guard was merged already."""
    return _prepared_folder(guard_folder(name)).exists()


def prepare_adapter(source: Path) -> Path:
    """Merge an adapter's folder into the base it names; the result is kept in the cache by content."""
    folder = _prepared_folder(source)
    if not folder.exists():
        _merge(source, folder)
    return folder


def _prepared_folder(source: Path) -> Path:
    digest = hashlib.sha256(_LAYOUT_VERSION)
    for file in (ADAPTER_FILE, "config.json"):
        digest.update((source / file).read_bytes())
    return cache_folder() / f"{source.name}-{digest.hexdigest()[:12]}"


def template_file(*, is_gen: bool, is_gemma: bool = False) -> Path:
    """Return the chat template of our own guards, in the markers of their base; a Gen guard's holds its instruction."""
    kind = "gen_chat_template" if is_gen else "chat_template"
    return Path(__file__).parent / (f"{kind}_gemma.jinja" if is_gemma else f"{kind}.jinja")


def _merge(source: Path, folder: Path) -> None:
    adapter = load_adapter(source)
    base_folder = find_base(adapter.base)
    raw = read_config(source)
    shape = parse_model_config(raw)
    config = dataclasses.replace(
        parse_model_config(read_config(base_folder)), num_layers=shape.num_layers, max_positions=shape.max_positions
    )
    base = load_gen(base_folder, dtype=torch.bfloat16)
    is_gen = not is_stream_checkpoint(raw)
    model: GuardModel | CausalLM
    if is_gen:
        model = build_gen(source, base, model_config=config)
    else:
        model = build_guard(source, base.decoder, model_config=config)
    model.to(torch.bfloat16)
    if adapter.has_rounded_weights:
        fake_quantize_weights(model.decoder)
    staged = staging_folder(folder)
    save_checkpoint(model, staged)
    shutil.copy(base_folder / "tokenizer.json", staged)
    shutil.copy(template_file(is_gen=is_gen, is_gemma=config.is_gemma), staged / "chat_template.jinja")
    install_folder(staged, folder)
