"""Loads a Stream guard as torch modules; the only part of serving, beside `torch_runner`, that imports torch."""

from pathlib import Path

import torch

from streamward.engine.config import EngineConfig
from streamward.engine.torch_runner import TorchModelRunner
from streamward.model.checkpoint import load_stream
from streamward.model.packing import pack_linears, serving_dtype


def load_torch_runner(folder: Path, config: EngineConfig, *, dtype: str | None) -> TorchModelRunner:
    """Load a guard with weights of a dtype; None takes bfloat16 where the CPU computes it fast, else float32.

    Raises:
        CheckpointError: A file is missing or damaged.
        ConfigError: The settings need the native kernels.
    """
    model = load_stream(folder, dtype=serving_dtype() if dtype is None else getattr(torch, dtype))
    pack_linears(model)
    return TorchModelRunner(model, config)
