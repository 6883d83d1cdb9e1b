"""The embedded guards, without torch.

An installation finds them in guard packages, ready to be mapped. A clone has their adapters instead, which are merged
into their base and rounded once; the result is kept in the cache.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamward.bundled.adapter import ADAPTER_FILE, load_adapter, merge_adapter
from streamward.bundled.base import (
    BASES,
    Base,
    cache_folder,
    find_base,
    install_folder,
    is_installed,
    staging_folder,
)
from streamward.bundled.packages import DISTRIBUTION_PREFIX, packaged_folder, packaged_guards
from streamward.errors import ConfigError
from streamward.kernels.quantization import GROUP
from streamward.model.checkpoint_files import INDEX_FILE, SINGLE_FILE
from streamward.model.config import ModelConfig, parse_model_config
from streamward.model.config_file import read_config
from streamward.model.parameters import ModelParameters, load_published, read_shapes
from streamward.model.preparation import prepare
from streamward.model.prepared import exact_layers, is_prepared_folder, load_prepared, save_prepared
from streamward.model.published import save_published

logger = logging.getLogger(__name__)

DEFAULT_GUARD = "stream-135m"
_LAYOUT_VERSION = b"2"  # raise it when prepared folders change in a way the adapter's hash does not show
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def embedded_guards() -> list[str]:
    """Return the names of the guards that need no download: those of a clone, and those installed as packages."""
    return sorted({*_adapters(), *packaged_guards()})


def guard_folder(name: str) -> Path:
    """Return the folder of an embedded guard's config and card, with its adapter or its 8-bit weights.

    Raises:
        ConfigError: There is no guard of this name.
        CheckpointError: The guard's package is damaged.
    """
    adapters = _adapters()
    if name in adapters:
        return adapters[name]
    if name in packaged_guards():
        return packaged_folder(name)
    names = embedded_guards()
    known = f"there are {', '.join(names)}" if names else f"run: pip install {DISTRIBUTION_PREFIX}{DEFAULT_GUARD}"
    raise ConfigError(f"there is no embedded guard {name!r}; {known}")


def _adapters() -> dict[str, Path]:
    """Return the folders of the adapters that lie beside this module in a clone."""
    return {path.parent.name: path.parent for path in Path(__file__).parent.glob(f"*/{ADAPTER_FILE}")}


def prepare_guard(name: str) -> Path:
    """Return an embedded guard as a checkpoint folder in the published layout, in bfloat16.

    The first call merges the adapter into the base, or dequantizes the 8-bit weights of a package (some seconds); later
    ones find the folder in the cache.

    Raises:
        ConfigError: There is no guard of this name.
        CheckpointError: The base or the adapter is missing or damaged.
    """
    return prepare_adapter(guard_folder(name))


def is_prepared(name: str) -> bool:
    """Return whether an embedded guard has 8-bit weights already, in its package or in the cache."""
    source = guard_folder(name)
    return is_prepared_folder(source) or _int8_folder(source).exists()


def missing_base(name: str) -> Base | None:
    """Return the base that an embedded guard needs and that is not installed; None if nothing is missing.

    Raises:
        CheckpointError: The guard's folder is damaged.
    """
    base = None if is_prepared(name) else guard_base(name)
    return None if base is None or is_installed(base.name) else base


def guard_base(name: str) -> Base | None:
    """Return the base that an embedded guard's adapter goes with; None for a guard that was installed as a package.

    Raises:
        CheckpointError: The guard's folder is damaged.
    """
    source = guard_folder(name)
    return BASES.get(read_config(source)["streamward"]["base"]) if (source / ADAPTER_FILE).exists() else None


def prepare_adapter(source: Path) -> Path:
    """Return a guard in the published layout and bfloat16; kept in the cache.

    Args:
        source: An adapter's folder, to be merged into the base it names, or a folder with 8-bit weights.
    """
    folder = cache_folder() / f"{source.name}-{_digest(source)}"
    return _made(folder, lambda staged: _write_published(source, staged))


def prepare_int8(source: Path) -> Path:
    """Return a guard with 8-bit weights, ready to be mapped; kept in the cache.

    Args:
        source: An adapter's folder, or a checkpoint in a published layout.

    Raises:
        ConfigError: The shape does not suit 8-bit weights.
        CheckpointError: The base, the adapter or the checkpoint is missing or damaged.
    """
    if is_prepared_folder(source):
        return source
    return _made(_int8_folder(source), lambda staged: _write_int8(source, staged))


def suits_int8(config: ModelConfig) -> bool:
    """Return whether every matrix of a decoder has sizes that 8-bit weights and the native kernels support."""
    sizes = (
        config.hidden_size,
        config.intermediate_size,
        config.head_dim,
        (config.num_heads + 2 * config.num_kv_heads) * config.head_dim,
    )
    return all(size % GROUP == 0 for size in sizes)


def template_file(*, is_gen: bool, is_gemma: bool = False) -> Path:
    """Return the chat template of our own guards, in the markers of their base; a Gen guard's holds its instruction."""
    kind = "gen_chat_template" if is_gen else "chat_template"
    return Path(__file__).parent / (f"{kind}_gemma.jinja" if is_gemma else f"{kind}.jinja")


def _int8_folder(source: Path) -> Path:
    return cache_folder() / f"{source.name}-int8-{_digest(source)}"


def _digest(source: Path) -> str:
    """Return what tells two guards apart: the content of an adapter; of whole weights, size and time, to be quick."""
    digest = hashlib.sha256(_LAYOUT_VERSION + (source / "config.json").read_bytes())
    if (source / ADAPTER_FILE).exists():
        digest.update((source / ADAPTER_FILE).read_bytes())
        return digest.hexdigest()[:12]
    for path in sorted([*source.glob("*.safetensors"), *source.glob("tokenizer*"), *source.glob("*.jinja")]):
        stat = path.stat()
        digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _made(folder: Path, write: Callable[[Path], None]) -> Path:
    if not folder.exists():
        logger.info("preparing a guard's weights, which is done once", extra={"folder": folder.name})
        staged = staging_folder(folder)
        try:
            write(staged)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        install_folder(staged, folder)
    return folder


def _write_published(source: Path, staged: Path) -> None:
    if is_prepared_folder(source):
        save_published(load_prepared(source), staged)
        _copy_texts(source, staged)
        return
    parameters, is_rounded = _merged(source)
    save_published(prepare(parameters) if is_rounded else parameters, staged)
    _copy_texts(source, staged)


def _write_int8(source: Path, staged: Path) -> None:
    if (source / ADAPTER_FILE).exists():
        parameters, is_rounded = _merged(source)
    elif (source / SINGLE_FILE).exists() or (source / INDEX_FILE).exists():
        parameters, is_rounded = load_published(source), False
    else:
        raise ConfigError(f"{source} is not a checkpoint that can be prepared: it contains no {SINGLE_FILE}")
    prepared = prepare(parameters, keeps_exact_layers=not is_rounded)
    save_prepared(prepared, staged)
    keys: dict[str, Any] = dict(read_config(source))
    keys["streamward"] = {**keys.get("streamward", {}), "weights": "int8", "exact_layers": exact_layers(prepared)}
    (staged / "config.json").write_text(json.dumps(keys, indent=2) + "\n", encoding="utf-8")
    _copy_texts(source, staged)


def _merged(source: Path) -> tuple[ModelParameters, bool]:
    """Return the guard of an adapter in bfloat16, and whether its weights were rounded before it was calibrated."""
    adapter = load_adapter(source)
    base_folder = find_base(adapter.base)
    _, shape, guard_config = read_shapes(source)
    config = dataclasses.replace(
        parse_model_config(read_config(base_folder)), num_layers=shape.num_layers, max_positions=shape.max_positions
    )
    base = load_published(base_folder)
    merged = merge_adapter(source, base, model_config=config, guard_config=guard_config)
    return merged, adapter.has_rounded_weights


def _copy_texts(source: Path, staged: Path) -> None:
    """Copy tokenizer and template: an adapter has those of its base, under the template of our own guards."""
    if not (source / ADAPTER_FILE).exists():
        for name in _TOKENIZER_FILES:
            if (source / name).exists():
                shutil.copy(source / name, staged)
        return
    base_folder = find_base(load_adapter(source).base)
    _, config, guard_config = read_shapes(source)
    shutil.copy(base_folder / "tokenizer.json", staged)
    template = template_file(is_gen=guard_config is None, is_gemma=config.is_gemma)
    shutil.copy(template, staged / "chat_template.jinja")
