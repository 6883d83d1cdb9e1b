"""Linear layers in the layout of the native kernels, with weights of 16 or 8 bits; see `native/linear.h`."""

import ctypes
import math

import torch
from torch import Tensor, nn

from streamward.model.memory import Arena
from streamward.model.native import library as native

GROUP = 64
"""Inputs that share a range, as in linear.h."""
_PANEL, _LANES, _ZERO = 32, 16, 128


class NativeLinear(nn.Module):
    """A linear layer without bias that the native kernels read in place."""

    def __init__(
        self, weight: Tensor, *, library: ctypes.CDLL, is_int8: bool, is_gated: bool = False, arena: Arena | None = None
    ) -> None:
        """Pack a weight [out, in] for which `is_supported` returns true; the caller drops the original.

        Args:
            weight: bfloat16.
            library: The kernels.
            is_int8: Whether weights are rounded to 8 bits, and activations too when they arrive.
            is_gated: Whether the outputs are gates and as many values that they gate.
            arena: Where the packed weight goes; by default into memory of its own.
        """
        super().__init__()
        self._library = library
        self._is_gated = is_gated
        self.num_outputs, self.num_inputs = weight.shape
        if is_gated:  # a panel gets 16 gates, and what they gate
            weight = weight.view(2, -1, _LANES, self.num_inputs).transpose(0, 1).reshape(weight.shape)
        self.scales: Tensor | None = None
        if is_int8:
            weight, self.scales = _quantized(weight)
        in_word = 4 // weight.itemsize
        words = weight.view(self.num_outputs // _PANEL, _PANEL, self.num_inputs // in_word, in_word)
        arena = Arena(self.packed_nbytes(words, is_int8=is_int8)) if arena is None else arena
        self.weights = arena.move(words.transpose(1, 2))
        if self.scales is not None:
            self.scales = arena.move(self.scales)
        self.shape = native.LinearStruct(
            self.weights.data_ptr(),
            None if self.scales is None else self.scales.data_ptr(),
            self.num_inputs,
            self.num_outputs,
        )
        """For the kernels; it points into this module."""

    @classmethod
    def is_supported(cls, weight: Tensor) -> bool:
        """Whether the kernels support the shape, dtype and device of a weight."""
        is_even = all(size % native.SIZE_STEP == 0 for size in weight.shape)
        return weight.dtype is torch.bfloat16 and is_even and weight.device.type == "cpu"

    @staticmethod
    def packed_nbytes(weight: Tensor, *, is_int8: bool) -> int:
        """Return the bytes of an arena that a weight takes."""
        num_weights = weight.numel()
        steps = Arena.packed_nbytes(2 * num_weights // GROUP) if is_int8 else 0
        return Arena.packed_nbytes(num_weights * (1 if is_int8 else 2)) + steps

    @property
    def weight_bytes(self) -> int:
        """Bytes that a step reads."""
        return self.weights.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T, [..., out], in the dtype of x."""
        rows_TI = x.reshape(-1, self.num_inputs).float().contiguous()
        out_TO = torch.empty(len(rows_TI), self.num_outputs)
        packed = PackedActivations(len(rows_TI), self.num_inputs)
        self._library.streamward_linear(
            ctypes.byref(self.shape),
            rows_TI.data_ptr(),
            ctypes.byref(packed.operand),
            out_TO.data_ptr(),
            len(rows_TI),
        )
        if self._is_gated:
            out_TO = out_TO.view(len(rows_TI), -1, 2, _LANES).transpose(1, 2)
        return out_TO.reshape(*x.shape[:-1], self.num_outputs).to(x.dtype)


class PackedActivations:
    """Room for the activations of some tokens as the kernels multiply them."""

    def __init__(self, num_rows: int, num_inputs: int) -> None:
        """Reserve it for so many tokens and inputs, whatever the layer's weights."""
        self._values = torch.empty(2 * num_rows * num_inputs, dtype=torch.int8)
        self._scales = torch.empty(2, num_rows * num_inputs // GROUP)
        scales, offsets = self._scales
        self.operand = native.Operand(self._values.data_ptr(), scales.data_ptr(), offsets.data_ptr())


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers from 1 to 255 with zero point 128 [out, in], and scales in the order of the panels."""
    num_outputs, num_inputs = weight.shape
    integers, scales = _quantized_groups(weight)
    by_panel = scales.view(num_outputs // _PANEL, _PANEL // _LANES, _LANES, -1).permute(0, 3, 2, 1)
    return integers.add(_ZERO).to(torch.uint8).view(num_outputs, num_inputs), by_panel.bfloat16()


def fake_quantize(weight: Tensor) -> Tensor:
    """Quantize a weight [out, in] to 8 bits and return the dequantized values, float32.

    Rounding the result to bfloat16 does not change its 8 bits: the scale is determined by the largest value of a
    group, which moves by less than half a unit of bfloat16, and the other values move by a twentieth of a scale.
    """
    integers, scales = _quantized_groups(weight)
    return hadamard_transform((integers * scales[:, None]).view_as(weight)) * math.sqrt(GROUP)


def _quantized_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate groups of inputs and divide by their scales; return integers from -127 to 127 [groups, 64], and scales.

    A scale is the bfloat16 nearest to a 127th of the largest value, as float32.
    """
    groups = hadamard_transform(weight.float()).view(-1, GROUP) / math.sqrt(GROUP)
    scales = (groups.abs().amax(dim=-1) / 127).bfloat16().float().clamp(min=torch.finfo(torch.bfloat16).tiny)
    return (groups / scales[:, None]).round().clamp(-127, 127), scales


def hadamard_transform(x: Tensor) -> Tensor:
    """Multiply each group of 64 successive values by the orthonormal Hadamard matrix, which keeps their norm."""
    return (x.reshape(-1, GROUP) @ (_hadamard(GROUP) / math.sqrt(GROUP))).view_as(x)


def _hadamard(size: int) -> Tensor:
    """Sylvester's matrix of ones and minus ones; its square is `size` times the identity."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix
