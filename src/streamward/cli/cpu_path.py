"""Which kernels this machine runs a guard with."""

from typing import NamedTuple


class CpuPath(NamedTuple):
    """How a guard is computed here."""

    kernels: str
    threads: int
    is_native: bool
    """Whether the compiled kernels are used, as opposed to torch's slower operations."""


def cpu_path() -> CpuPath:
    """Return the path in use; the only place that asks the kernels."""
    import torch

    from streamward.model.native.library import kernels
    from streamward.model.packing import serving_dtype

    is_native = kernels() is not None
    dtype = str(serving_dtype()).removeprefix("torch.")
    name = f"native AVX512-BF16 kernels, {dtype}" if is_native else f"torch operations, {dtype} (no native kernels)"
    return CpuPath(name, torch.get_num_threads(), is_native)
