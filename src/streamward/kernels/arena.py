"""Large blocks of memory that the system hands over as they are written."""

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 64  # bytes: a cache line


def lazy_zeros(shape: Sequence[int], dtype: DTypeLike, *, huge_pages: bool = False) -> NDArray[Any]:
    """Make zeros without touching them.

    Args:
        shape: Shape of the array.
        dtype: Dtype of the array.
        huge_pages: Whether to ask for pages of two megabytes. What is read through once a step comes a third faster
            from them; what is touched here and there takes more memory.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if not hasattr(mmap, "MAP_ANONYMOUS") or num_bytes == 0:
        return np.zeros(shape, dtype)
    untouched = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            untouched.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(untouched, dtype=dtype).reshape(shape)


class WeightArena:
    """One block in huge pages for many arrays that are read one after the other."""

    def __init__(self, num_bytes: int) -> None:
        """Reserve room for arrays of `num_bytes` together, rounded by `packed_nbytes` each."""
        self._bytes = lazy_zeros((max(1, num_bytes),), np.uint8, huge_pages=True)
        self._used = 0

    @staticmethod
    def packed_nbytes(num_bytes: int) -> int:
        """Return what an array of so many bytes takes."""
        return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array that lies in the arena and keeps it alive."""
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        start, self._used = self._used, self._used + self.packed_nbytes(num_bytes)
        return self._bytes[start : start + num_bytes].view(dtype).reshape(shape)
