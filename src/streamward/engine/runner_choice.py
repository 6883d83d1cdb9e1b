"""From a checkpoint's folder to a model runner: native kernels where they support the model, else torch."""

from pathlib import Path

from streamward.engine.config import EngineConfig
from streamward.engine.model_runner import ModelRunner
from streamward.engine.native_runner import NativeModelRunner
from streamward.errors import CheckpointError, ConfigError
from streamward.model.config_file import read_config
from streamward.model.guard_config import is_stream_checkpoint
from streamward.model.native_choice import NO_TORCH, load_parameters, why_not_native


def load_runner(folder: Path, config: EngineConfig, *, dtype: str | None = None) -> ModelRunner:
    """Load a Stream guard.

    Args:
        folder: A prepared guard, or a checkpoint in the published layout.
        config: Limits, and which runner.
        dtype: Dtype of weights and cache; anything but bfloat16 needs torch. None takes what suits the runner.

    Raises:
        CheckpointError: A file is missing or damaged, or it is not a Stream guard.
        ConfigError: The runner that was asked for, or any runner, cannot run the guard.
    """
    if not is_stream_checkpoint(read_config(folder)):
        raise CheckpointError(f"{folder} contains no Stream guard: its config.json has no guard_inner_size")
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
        raise ConfigError(f"{reason}, and torch is not installed; {NO_TORCH}") from error
    return load_torch_runner(folder, config, dtype=dtype)
