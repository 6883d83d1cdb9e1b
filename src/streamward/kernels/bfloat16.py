"""bfloat16 in NumPy, which has none: the upper 16 bits of a float32, kept as uint16."""

import numpy as np
from numpy.typing import NDArray

_QUIET = np.uint32(0x40)


def to_bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest even; the same on every machine. Denormal numbers become 0, NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    upper = bits >> np.uint32(16)
    with np.errstate(over="ignore"):
        rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    rounded = np.where(magnitude > np.uint32(0x7F800000), upper | _QUIET, rounded)
    return np.where(magnitude < np.uint32(0x00800000), upper & np.uint32(0x8000), rounded).astype(np.uint16)


def from_bfloat16(x: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen to float32, exactly."""
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
