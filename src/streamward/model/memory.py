"""Large tensors on the CPU that the system hands over as they are written."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from streamward.kernels import arena


def lazy_zeros(shape: Sequence[int], *, dtype: torch.dtype, huge_pages: bool = False) -> Tensor:
    """Make zeros without touching them, which `torch.zeros` does; see `streamward.kernels.arena.lazy_zeros`."""
    if 0 in shape:
        return torch.zeros(shape, dtype=dtype)
    last = (*shape[:-1], shape[-1] * dtype.itemsize)
    return torch.from_numpy(arena.lazy_zeros(last, np.uint8, huge_pages=huge_pages)).view(dtype)
