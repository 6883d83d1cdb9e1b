"""Classification heads, and probabilities that are the same on every machine."""

# Shapes: T tokens; D hidden size; I inner size; O outputs; L labels.

import ctypes

import numpy as np
from numpy.typing import NDArray

from streamward.kernels.library import Kernels
from streamward.kernels.weights import SIZE_STEP, OperandBuffer, PackedWeight


class HeadKernel:
    """out(RMSNorm(pre(h)) * norm) in one call: for one token, many small operations cost more than they compute."""

    def __init__(self, pre: PackedWeight, norm: NDArray[np.float32], out: PackedWeight, *, eps: float) -> None:
        """Keep the layers.

        Args:
            pre: [I, D].
            norm: Weight [I] of the norm between them.
            out: [O, I]; see `pad_outputs`.
            eps: Epsilon of the norm.
        """
        self._pre, self._out, self._eps = pre, out, eps
        self._norm = np.ascontiguousarray(norm, np.float32)
        assert pre.kernels is out.kernels and self._norm.shape == (out.num_inputs,) == (pre.num_outputs,)

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [T, O] of hidden states, float32 [T, D]."""
        hidden = np.ascontiguousarray(hidden, np.float32)
        num_rows = len(hidden)
        inner = np.empty((num_rows, self._pre.num_outputs), np.float32)
        out = np.empty((num_rows, self._out.num_outputs), np.float32)
        operand = OperandBuffer(num_rows, max(self._pre.num_inputs, self._out.num_inputs))
        self._pre.kernels.call(
            "heads",
            self._pre.address,
            self._out.address,
            self._norm.ctypes.data,
            self._eps,
            hidden.ctypes.data,
            ctypes.addressof(operand.args),
            inner.ctypes.data,
            out.ctypes.data,
            num_rows,
        )
        return out


def pad_outputs(weight: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return a weight [O, I] with zeros behind it, up to a number of outputs that the kernels take."""
    return np.pad(weight, ((0, -len(weight) % SIZE_STEP), (0, 0)))


def softmax(logits: NDArray[np.float32], *, kernels: Kernels) -> NDArray[np.float32]:
    """Return probabilities, float32 [T, L], by the project's own exponential; the same bits on every machine."""
    logits = np.ascontiguousarray(logits, np.float32)
    out = np.empty_like(logits)
    kernels.call("softmax", logits.ctypes.data, out.ctypes.data, *logits.shape)
    return out
