"""Linear layers in the layout of one unit, with weights of 16 or 8 bits; see csrc/linear.h."""

# Shapes: T rows; O outputs; I inputs.

import ctypes
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.arena import WeightArena
from streamward.kernels.library import Kernels
from streamward.kernels.quantization import GROUP, QuantizedWeight
from streamward.kernels.structs import LinearArgs, OperandArgs

SIZE_STEP = 64
"""Inputs and outputs of a layer are multiples of it."""
_INT8, _BF16, _BF16_FAST = range(3)  # as in types.h
_LANES = 16


class OperandBuffer:
    """Room for the activations of some tokens as a layer multiplies them, whatever its weights."""

    def __init__(self, num_rows: int, num_inputs: int) -> None:
        """Reserve it for so many tokens and inputs."""
        self._values = np.empty(num_rows * num_inputs, np.float32)
        self._scales = np.empty((2, num_rows * (num_inputs // GROUP)), np.float32)
        self.args = OperandArgs(self._values.ctypes.data, *(row.ctypes.data for row in self._scales))


class PackedWeight:
    """A linear layer without bias that the kernels of one unit read in place."""

    def __init__(
        self,
        *,
        kernels: Kernels,
        num_outputs: int,
        num_inputs: int,
        kind: int,
        is_gated: bool,
        arena: WeightArena | None,
    ) -> None:
        """Made by `int8` and `bfloat16`."""
        if num_outputs % SIZE_STEP or num_inputs % SIZE_STEP:
            raise ValueError(f"a layer of {num_outputs} x {num_inputs}; sizes must be multiples of {SIZE_STEP}")
        is_int8 = kind == _INT8
        self.num_outputs, self.num_inputs = num_outputs, num_inputs
        self.kernels = kernels
        self._is_gated = is_gated
        if arena is None:
            arena = WeightArena(self.packed_nbytes(num_outputs, num_inputs, is_int8=is_int8))
        self._weights = arena.empty((num_outputs * num_inputs,), np.int8 if is_int8 else np.uint16)
        self._scales = arena.empty((num_outputs * num_inputs // GROUP,), np.uint16) if is_int8 else None
        scales = None if self._scales is None else self._scales.ctypes.data
        self.args = LinearArgs(self._weights.ctypes.data, scales, num_inputs, num_outputs, kind)
        """For the kernels; it points into this object."""

    @classmethod
    def int8(
        cls,
        blocks: QuantizedWeight | Sequence[QuantizedWeight],
        *,
        kernels: Kernels,
        is_gated: bool = False,
        arena: WeightArena | None = None,
    ) -> Self:
        """Pack weights of 8 bits; activations are rounded to 8 bits when they arrive.

        Args:
            blocks: One weight [O, I], or several whose outputs follow each other.
            kernels: Who reads it.
            is_gated: Whether the first half of the outputs are gates, and the second what they gate.
            arena: Where the packed weight goes; by default into memory of its own.
        """
        blocks = (blocks,) if isinstance(blocks, QuantizedWeight) else blocks
        made = cls._of_shape([block.values for block in blocks], kernels, _INT8, is_gated, arena)
        first = 0
        for block in blocks:
            scales = np.ascontiguousarray(block.scales)
            assert scales.shape == (len(block.values), made.num_inputs // GROUP), scales.shape
            first = made._pack(np.ascontiguousarray(block.values), scales, first)
        return made

    @classmethod
    def bfloat16(
        cls,
        blocks: NDArray[np.uint16] | Sequence[NDArray[np.uint16]],
        *,
        kernels: Kernels,
        is_gated: bool = False,
        is_fast: bool = False,
        arena: WeightArena | None = None,
    ) -> Self:
        """Pack weights of 16 bits.

        Args:
            blocks: One weight [O, I] in bfloat16, or several whose outputs follow each other.
            kernels: Who reads it.
            is_gated: As in `int8`.
            is_fast: Whether activations may be rounded to bfloat16 where the unit has dot products of such pairs. Then
                results are the same only within a unit; else on all units.
            arena: As in `int8`.
        """
        blocks = (blocks,) if isinstance(blocks, np.ndarray) else blocks
        made = cls._of_shape(blocks, kernels, _BF16_FAST if is_fast else _BF16, is_gated, arena)
        first = 0
        for block in blocks:
            first = made._pack(np.ascontiguousarray(block), None, first)
        return made

    @classmethod
    def _of_shape(
        cls,
        blocks: Sequence[NDArray[np.int8]] | Sequence[NDArray[np.uint16]],
        kernels: Kernels,
        kind: int,
        is_gated: bool,
        arena: WeightArena | None,
    ) -> Self:
        num_inputs = blocks[0].shape[1]
        assert all(block.dtype == (np.int8 if kind == _INT8 else np.uint16) for block in blocks)
        assert all(block.shape[1] == num_inputs for block in blocks)
        return cls(
            kernels=kernels,
            num_outputs=sum(len(block) for block in blocks),
            num_inputs=num_inputs,
            kind=kind,
            is_gated=is_gated,
            arena=arena,
        )

    @staticmethod
    def packed_nbytes(num_outputs: int, num_inputs: int, *, is_int8: bool) -> int:
        """Return the bytes of an arena that a weight takes."""
        num_weights = num_outputs * num_inputs
        scales = WeightArena.packed_nbytes(2 * num_weights // GROUP) if is_int8 else 0
        return WeightArena.packed_nbytes(num_weights * (1 if is_int8 else 2)) + scales

    @property
    def nbytes(self) -> int:
        """Bytes that a step reads."""
        return self._weights.nbytes + (0 if self._scales is None else self._scales.nbytes)

    @property
    def address(self) -> int:
        """Address of `args`."""
        return ctypes.addressof(self.args)

    def matmul(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return x W^T, float32 [T, O]; x is float32 [T, I]. Of a gated layer: gates, then what they gate."""
        x = np.ascontiguousarray(x, np.float32)
        assert x.ndim == 2 and x.shape[1] == self.num_inputs, x.shape
        out = np.empty((len(x), self.num_outputs), np.float32)
        operand = OperandBuffer(len(x), self.num_inputs)
        self.kernels.call(
            "linear", self.address, x.ctypes.data, ctypes.addressof(operand.args), out.ctypes.data, len(x)
        )
        if self._is_gated:
            out = out.reshape(len(x), -1, 2, _LANES).transpose(0, 2, 1, 3).reshape(out.shape)
        return out

    def _pack(
        self, block: NDArray[np.int8] | NDArray[np.uint16], scales: NDArray[np.uint16] | None, first_output: int
    ) -> int:
        """Put a block of outputs where the kernels read it; return the output behind it."""
        self.kernels.call(
            "pack_weight",
            self.address,
            block.ctypes.data,
            None if scales is None else scales.ctypes.data,
            first_output,
            len(block),
            self._is_gated,
        )
        return first_output + len(block)
