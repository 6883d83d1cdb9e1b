"""From a checkpoint's folder to a language model: native kernels where they support it, else torch."""

from pathlib import Path

from streamward.errors import ConfigError
from streamward.generative.language_model import LanguageModel
from streamward.generative.native_lm import PAGE_TOKENS, NativeLanguageModel
from streamward.model.native_choice import NO_TORCH, load_parameters, why_not_native


def load_language_model(folder: Path, *, runner: str, threads: int | None, dtype: str | None) -> LanguageModel:
    """Load a checkpoint with a language-model head.

    Args:
        folder: A prepared guard, or a checkpoint in a published layout.
        runner: As in `EngineConfig`.
        threads: As in `EngineConfig`.
        dtype: Dtype of the weights; anything but bfloat16 needs torch. None takes what suits the runner.

    Raises:
        CheckpointError: A file is missing or damaged.
        ConfigError: The runner that was asked for, or any runner, cannot run the model.
    """
    reason = why_not_native(folder, runner=runner, page_tokens=PAGE_TOKENS, dtype=dtype)
    if reason is None:
        return NativeLanguageModel(load_parameters(folder), threads=threads)
    if runner == "native":
        raise ConfigError(reason)
    try:
        from streamward.generative.torch_lm import load_torch_language_model  # not for those who do without torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ConfigError(f"{reason}, and torch is not installed; {NO_TORCH}") from error
    return load_torch_language_model(folder, dtype=dtype)
