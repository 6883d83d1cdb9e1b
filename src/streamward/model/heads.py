"""Classification heads on a decoder's hidden states (Qwen3Guard, arXiv 2510.14276, section 4.1)."""

# Shapes: T tokens; D hidden size; I inner size; R risk levels; C categories.

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from streamward.model.guard_config import SideLabels
from streamward.model.layers import RMSNorm, plain_linear


class HeadLogits(NamedTuple):
    """Logits of one side's heads, float32."""

    risk_TR: Tensor
    category_TC: Tensor


class SideHeads(nn.Module):
    """Risk level and category of each token on one side: x = RMSNorm(W_pre h), then two projections.

    Attributes:
        risk_offset_R: Added to the risk logits; None for nothing. Set by calibration, see `GuardConfig.risk_offsets`.
    """

    def __init__(
        self,
        labels: SideLabels,
        *,
        hidden_size: int,
        inner_size: int,
        eps: float,
        risk_offsets: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.risk_offset_R = None if risk_offsets is None else torch.tensor(risk_offsets, device="cpu")
        self.pre = plain_linear(hidden_size, inner_size)
        self.norm = RMSNorm(inner_size, eps=eps)
        self.risk = plain_linear(inner_size, len(labels.risk_levels))
        self.category = plain_linear(inner_size, len(labels.categories))

    def forward(self, hidden_TD: Tensor) -> HeadLogits:
        """Return the logits of each token, always float32."""
        x_TI = self.norm(self.pre(hidden_TD))
        return HeadLogits(with_offset(self.risk(x_TI).float(), self.risk_offset_R), self.category(x_TI).float())


def with_offset(risk_TR: Tensor, offset_R: Tensor | None) -> Tensor:
    """Return risk logits with the offsets of calibration added; same shape, dtype and device."""
    return risk_TR if offset_R is None else risk_TR + offset_R.to(risk_TR)
