"""Classification heads on a decoder's hidden states (Qwen3Guard, arXiv 2510.14276, section 4.1)."""

# Shapes: T tokens; D hidden size; I inner size; R risk levels; C categories.

from typing import NamedTuple

from torch import Tensor, nn

from streamward.model.config import SideLabels
from streamward.model.layers import RMSNorm, plain_linear


class HeadLogits(NamedTuple):
    """Logits of one side's heads, float32."""

    risk_TR: Tensor
    category_TC: Tensor


class SideHeads(nn.Module):
    """Risk level and category of each token on one side: x = RMSNorm(W_pre h), then two projections."""

    def __init__(self, labels: SideLabels, *, hidden_size: int, inner_size: int, eps: float) -> None:
        super().__init__()
        self.pre = plain_linear(hidden_size, inner_size)
        self.norm = RMSNorm(inner_size, eps=eps)
        self.risk = plain_linear(inner_size, len(labels.risk_levels))
        self.category = plain_linear(inner_size, len(labels.categories))

    def forward(self, hidden_TD: Tensor) -> HeadLogits:
        """Return the logits of each token, always float32."""
        x_TI = self.norm(self.pre(hidden_TD))
        return HeadLogits(self.risk(x_TI).float(), self.category(x_TI).float())
