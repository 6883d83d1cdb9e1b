"""A causal language model as a Gen guard needs it: logits behind a sequence whose end changes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamward.errors import ConfigError
from streamward.model.native_choice import NO_TORCH, load_parameters, why_not_native

PAGE_TOKENS = 64


class TokenSession(Protocol):
    """One sequence with its keys and values; tokens are processed when the logits behind them are asked for."""

    @property
    def length(self) -> int:
        """Tokens so far, processed or not."""
        ...

    def read(self, ids: Sequence[int]) -> None:
        """Append tokens."""
        ...

    def truncate(self, length: int) -> None:
        """Remove tokens from `length` on."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the next token, [vocabulary]."""
        ...


class LanguageModel(Protocol):
    """A causal language model. One session at a time."""

    @property
    def max_positions(self) -> int:
        """Longest sequence."""
        ...

    def session(self, ids: Sequence[int], *, capacity: int) -> TokenSession:
        """Start a sequence.

        Args:
            ids: Its first tokens.
            capacity: Tokens it may grow to.
        """
        ...


def load_language_model(folder: Path, *, runner: str, threads: int | None, dtype: str | None) -> LanguageModel:
    """Load a checkpoint with a language-model head.

    Args:
        folder: A prepared guard, or a checkpoint in a published layout.
        runner: As in `EngineConfig`.
        threads: As in `EngineConfig`.
        dtype: Of the weights; anything but bfloat16 needs torch. None takes what suits the runner.

    Raises:
        CheckpointError: A file is missing or damaged.
        ConfigError: The runner that was asked for, or any runner, cannot run the model.
    """
    reason = why_not_native(folder, runner=runner, page_tokens=PAGE_TOKENS, dtype=dtype)
    if reason is None:
        from streamward.generative.native_lm import NativeLanguageModel

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
