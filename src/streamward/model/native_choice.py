"""Decides whether the native kernels run a checkpoint, and reads its weights into numpy."""

from pathlib import Path

from streamward.errors import ConfigError
from streamward.kernels.library import load_kernels
from streamward.model.kernel_model import why_unsupported
from streamward.model.parameters import ModelParameters, load_published, read_shapes
from streamward.model.prepared import is_prepared_folder, load_prepared

NO_TORCH = "install streamward[torch], or a package with kernels for this CPU"
"""Advice where neither the kernels nor torch can run a model."""


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
