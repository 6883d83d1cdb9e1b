"""From a checkpoint's folder to a model runner: native kernels where they support the model, else torch."""

import logging
from pathlib import Path

from streamward.engine.config import EngineConfig
from streamward.engine.model_runner import ModelRunner
from streamward.engine.native_runner import NativeModelRunner
from streamward.errors import CheckpointError, ConfigError
from streamward.kernels.library import load_kernels
from streamward.model.config_file import read_config
from streamward.model.guard_config import is_stream_checkpoint
from streamward.model.kernel_model import why_unsupported
from streamward.model.parameters import ModelParameters, load_published, read_shapes
from streamward.model.prepared import is_prepared_folder, load_prepared

logger = logging.getLogger(__name__)
_NO_TORCH = "install streamward[torch], or a package with kernels for this CPU"


def load_runner(folder: Path, config: EngineConfig, *, dtype: str | None = None) -> ModelRunner:
    """Load a Stream guard.

    Args:
        folder: A prepared guard, or a checkpoint in the published layout.
        config: Limits, and which runner.
        dtype: Of weights and cache; anything but bfloat16 needs torch. None takes what suits the runner.

    Raises:
        CheckpointError: A file is missing or damaged, or it is not a Stream guard.
        ConfigError: The runner that was asked for, or any runner, cannot run the guard.
    """
    if not is_stream_checkpoint(read_config(folder)):
        raise CheckpointError(f"{folder} holds no Stream guard: its config.json has no guard_inner_size")
    reason = why_not_native(folder, runner=config.runner, page_tokens=config.page_tokens, dtype=dtype)
    if reason is None:
        return NativeModelRunner(load_parameters(folder), config)
    if config.runner == "native" or config.kv_cache == "int8":
        raise ConfigError(reason)
    try:
        from streamward.engine.torch_loading import load_torch_runner  # not for those who do without torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ConfigError(f"{reason}, and torch is not installed; {_NO_TORCH}") from error
    return load_torch_runner(folder, config, dtype=dtype)


def load_parameters(folder: Path) -> ModelParameters:
    """Map the weights of a prepared guard or of a checkpoint in a published layout.

    Raises:
        CheckpointError: A file or tensor is missing, unknown, misshapen or damaged.
    """
    return load_prepared(folder) if is_prepared_folder(folder) else load_published(folder)


def why_not_native(folder: Path, *, runner: str, page_tokens: int, dtype: str | None) -> str | None:
    """Say why the native kernels do not run a checkpoint; None if they do."""
    if runner == "torch":
        return "runner is torch"
    if dtype not in (None, "bfloat16"):
        return f"dtype is {dtype}, and the native kernels compute with bfloat16 or 8-bit weights"
    _, config, guard = read_shapes(folder)
    reason = why_unsupported(config, inner_size=None if guard is None else guard.inner_size, page_tokens=page_tokens)
    if reason is None:
        try:
            load_kernels()
        except ConfigError as error:
            reason = str(error)
    return reason
