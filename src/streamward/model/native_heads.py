"""Classification heads in one call of the native kernels."""

# Shapes: T tokens; D hidden size; I inner size; R risk levels; C categories.

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamward.model.heads import HeadLogits, SideHeads, with_offset
from streamward.model.native.library import SIZE_STEP, Operand
from streamward.model.native_linear import NativeLinear


class NativeHeads(nn.Module):
    """What `SideHeads` does; for one token of one stream, many small operations cost more than they compute."""

    def __init__(self, heads: SideHeads, *, library: ctypes.CDLL) -> None:
        """Pack heads of which `fits` is true; the caller drops them.

        Args:
            heads: bfloat16.
            library: The kernels.
        """
        super().__init__()
        self._library = library
        self._risk_offset_R = heads.risk_offset_R
        self._sizes = [len(_weight(heads.risk)), len(_weight(heads.category))]
        self.pre = NativeLinear(_weight(heads.pre), library=library, is_int8=False)
        self.norm = heads.norm
        self.both = NativeLinear(_projections(heads), library=library, is_int8=False)

    @staticmethod
    def is_supported(heads: SideHeads) -> bool:
        """Whether the kernels take the heads."""
        return NativeLinear.is_supported(_weight(heads.pre)) and NativeLinear.is_supported(_projections(heads))

    def forward(self, hidden_TD: Tensor) -> HeadLogits:
        """Return the logits of each token, float32."""
        rows_TD = hidden_TD.bfloat16().contiguous()
        inner_TI = torch.empty(len(rows_TD), self.pre.num_outputs)
        logits = torch.empty(len(rows_TD), self.both.num_outputs)
        packed = torch.empty(len(rows_TD) * max(self.pre.num_inputs, self.both.num_inputs), dtype=torch.bfloat16)
        self._library.streamward_heads(
            ctypes.byref(self.pre.shape),
            ctypes.byref(self.both.shape),
            self.norm.weight.data_ptr(),
            self.norm.eps,
            rows_TD.data_ptr(),
            ctypes.byref(Operand(packed.data_ptr(), None, None)),
            inner_TI.data_ptr(),
            logits.data_ptr(),
            len(rows_TD),
        )
        risk_TR, category_TC = logits[:, : sum(self._sizes)].split(self._sizes, dim=1)
        return HeadLogits(with_offset(risk_TR, self._risk_offset_R), category_TC)


def _weight(linear: nn.Module) -> Tensor:
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach()


def _projections(heads: SideHeads) -> Tensor:
    """Return both projections as one weight, padded to as many outputs as the kernels take."""
    weight = torch.cat((_weight(heads.risk), _weight(heads.category)))
    return F.pad(weight, (0, 0, 0, -len(weight) % SIZE_STEP))
