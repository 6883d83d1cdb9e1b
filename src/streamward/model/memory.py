"""Large blocks of memory that the system hands over as they are written."""

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes: a cache line


def lazy_zeros(shape: Sequence[int], *, dtype: torch.dtype, huge_pages: bool = False) -> Tensor:
    """Make zeros on the CPU without touching them, which `torch.zeros` does.

    NumPy's zeros are lazy too, but always in huge pages.

    Args:
        shape: Of the tensor.
        dtype: Of the tensor.
        huge_pages: Whether to ask for pages of two megabytes. What is read through once a step comes a third faster
            from them; what is touched here and there takes more memory.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(*shape, dtype=dtype)
    untouched = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            untouched.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(untouched, dtype=dtype).view(*shape)


class Arena:
    """One block in huge pages for many tensors that are read one after the other."""

    def __init__(self, num_bytes: int) -> None:
        """Reserve room for tensors of `num_bytes` together, rounded by `room_for` each."""
        self._bytes = lazy_zeros((max(1, num_bytes),), dtype=torch.uint8, huge_pages=True)
        self._used = 0

    @staticmethod
    def packed_nbytes(num_bytes: int) -> int:
        """Return what a tensor of so many bytes takes."""
        return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT

    def move(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor that lies in the arena and keeps it alive."""
        start, self._used = self._used, self._used + self.packed_nbytes(tensor.nbytes)
        copy = self._bytes[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        return copy.copy_(tensor)
