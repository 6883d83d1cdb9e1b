"""Weights of 8 bits as they are stored: the same on every machine, row-major, ready to be mapped from a file."""

# Shapes: O outputs; I inputs.

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.library import Kernels, load_kernels

GROUP = 64
"""Inputs that share a scale, as in types.h."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight [O, I] whose groups of 64 inputs were multiplied by the Hadamard matrix and rounded to 8 bits.

    Attributes:
        values: int8 [O, I], within +-127.
        scales: bfloat16 [O, I / 64] as uint16.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.uint16]


def quantize(weight: NDArray[np.float32] | NDArray[np.uint16], *, kernels: Kernels | None = None) -> QuantizedWeight:
    """Round a weight [O, I] to 8 bits.

    A scale is the bfloat16 nearest to a 127th of a group's largest value.

    Args:
        weight: float32, or bfloat16 as uint16; I is a multiple of 64.
        kernels: By default the machine's; all give the same.
    """
    kernels = kernels or load_kernels()
    source = np.ascontiguousarray(weight)
    num_outputs, num_inputs = source.shape
    assert source.dtype in (np.float32, np.uint16) and num_inputs % GROUP == 0, (source.dtype, source.shape)
    values = np.empty((num_outputs, num_inputs), np.int8)
    scales = np.empty((num_outputs, num_inputs // GROUP), np.uint16)
    is_bfloat16 = source.dtype == np.uint16
    kernels.call(
        "quantize_weight",
        source.ctypes.data,
        is_bfloat16,
        num_outputs,
        num_inputs,
        values.ctypes.data,
        scales.ctypes.data,
    )
    return QuantizedWeight(values, scales)


def dequantize(weight: QuantizedWeight, *, kernels: Kernels | None = None) -> NDArray[np.float32]:
    """Return what a weight of 8 bits stands for, float32 [O, I].

    Rounding the result to bfloat16 does not change its 8 bits: the scale is determined by the largest value of a
    group, which moves by less than half a unit of bfloat16, and the other values move by a twentieth of a scale.
    """
    kernels = kernels or load_kernels()
    values, scales = np.ascontiguousarray(weight.values), np.ascontiguousarray(weight.scales)
    out = np.empty(values.shape, np.float32)
    kernels.call("dequantize_weight", values.ctypes.data, scales.ctypes.data, *values.shape, out.ctypes.data)
    return out


def hadamard_transform(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply each group of 64 of the last dimension by the orthonormal Hadamard matrix, which keeps their norm."""
    groups = np.asarray(x, np.float32).reshape(-1, GROUP)
    distance = 1
    while distance < GROUP:
        pairs = groups.reshape(-1, GROUP // (2 * distance), 2, distance)
        left, right = pairs[:, :, 0], pairs[:, :, 1]
        groups = np.stack((left + right, left - right), axis=2).reshape(-1, GROUP)
        distance *= 2
    return (groups * np.float32(1 / math.sqrt(GROUP))).reshape(x.shape)
