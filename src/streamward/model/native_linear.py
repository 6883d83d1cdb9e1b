"""Linear layers in the layout of the native kernels, with weights of 16 or 8 bits; see `native/linear.h`."""

import ctypes

import torch
from torch import Tensor, nn

from streamward.model.native import library as native

_GROUP, _PANEL, _LANES = 64, 32, 16  # as in linear.h


class NativeLinear(nn.Module):
    """A linear layer without bias that the native kernels read in place."""

    def __init__(self, weight: Tensor, *, library: ctypes.CDLL, is_int8: bool, is_gated: bool = False) -> None:
        """Pack a weight [out, in] of which `fits` is true; the caller drops the original.

        Args:
            weight: bfloat16.
            library: The kernels.
            is_int8: Whether weights are rounded to 8 bits, and activations too when they arrive.
            is_gated: Whether the outputs are gates and as many values that they gate.
        """
        super().__init__()
        self._library = library
        self._is_gated = is_gated
        self.num_outputs, self.num_inputs = weight.shape
        if is_gated:  # a panel gets 16 gates, and what they gate
            weight = weight.view(2, -1, _LANES, self.num_inputs).transpose(0, 1).reshape(weight.shape)
        self.ranges: Tensor | None = None
        if is_int8:
            weight, self.ranges = _quantized(weight)
        in_word = 4 // weight.itemsize
        words = weight.view(self.num_outputs // _PANEL, _PANEL, self.num_inputs // in_word, in_word)
        self.weights = words.transpose(1, 2).contiguous()
        self.shape = native.Linear(
            self.weights.data_ptr(),
            None if self.ranges is None else self.ranges.data_ptr(),
            self.num_inputs,
            self.num_outputs,
        )
        """For the kernels; it points into this module."""

    @classmethod
    def fits(cls, weight: Tensor) -> bool:
        """Whether the kernels take a weight."""
        is_even = all(size % native.SIZE_STEP == 0 for size in weight.shape)
        return weight.dtype is torch.bfloat16 and is_even and weight.device.type == "cpu"

    @property
    def weight_bytes(self) -> int:
        """Bytes that a step reads."""
        return self.weights.nbytes + (0 if self.ranges is None else self.ranges.nbytes)

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
        self._scales = torch.empty(2, num_rows * num_inputs // _GROUP)
        scales, totals = self._scales
        self.operand = native.Operand(self._values.data_ptr(), scales.data_ptr(), totals.data_ptr())


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate groups of inputs and round to whole numbers from 0 to 255 [out, in]; and give the ranges by panels.

    A weight is its group's lowest plus so many steps. Both are bfloat16, rounded so that a range holds all its weights.
    """
    num_outputs, num_inputs = weight.shape
    groups = weight.float().view(-1, _GROUP) @ (_hadamard(_GROUP) / _GROUP)
    lowest = _rounded_up(-groups.amin(dim=-1)).neg()
    steps = _rounded_up((groups.amax(dim=-1) - lowest) / 255).clamp(min=torch.finfo(torch.bfloat16).tiny)
    whole = ((groups - lowest[:, None]) / steps[:, None]).round().to(torch.uint8)
    ranges = torch.stack((steps, lowest), dim=-1).bfloat16()
    by_panel = ranges.view(num_outputs // _PANEL, _PANEL, -1, 2).transpose(1, 2).contiguous()
    return whole.view(num_outputs, num_inputs), by_panel


def _hadamard(size: int) -> Tensor:
    """Sylvester's matrix of ones and minus ones; its square is `size` times the identity."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


def _rounded_up(x: Tensor) -> Tensor:
    """Return the next bfloat16 that is no smaller, as float32."""
    rounded = x.bfloat16()
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.float() < x, above, rounded).float()
