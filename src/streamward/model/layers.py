"""One decoder layer with fused projections, and rotary positions."""

# Shapes: T tokens, packed; D hidden size; H query heads; K key/value heads; d head size; F intermediate size;
# P positions.

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamward.model.config import ModelConfig


class Rotation(NamedTuple):
    """Cosines and sines of each token's position, [T, 1, d / 2]."""

    cos_T1r: Tensor
    sin_T1r: Tensor


class Attend(Protocol):
    """Causal attention of new tokens over themselves and whatever came before them.

    Implementations know which tokens belong together and where earlier keys and values are kept.
    """

    def __call__(self, layer: int, q_THd: Tensor, k_TKd: Tensor, v_TKd: Tensor) -> Tensor:
        """Return the attended values, [T, H * d]. Keys arrive already rotated."""
        ...


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; same shape and dtype."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def plain_linear(in_features: int, out_features: int) -> nn.Module:
    """Make a linear layer without bias, the only kind these families have."""
    return nn.Linear(in_features, out_features, bias=False)


class DecoderLayer(nn.Module):
    """Pre-norm attention and gated MLP (SiLU), as in Llama and Qwen3."""

    def __init__(self, config: ModelConfig, *, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_counts = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self.head_dim = config.head_dim
        attention_size = config.num_heads * config.head_dim
        qkv_size = sum(self.head_counts) * config.head_dim
        self.input_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.qkv = plain_linear(config.hidden_size, qkv_size)
        self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.has_qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.has_qk_norm else None
        self.out = plain_linear(attention_size, config.hidden_size)
        self.post_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gate_up = plain_linear(config.hidden_size, 2 * config.intermediate_size)
        self.down = plain_linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_TD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """Return the hidden states after this layer, [T, D]."""
        qkv: Tensor = self.qkv(self.input_norm(hidden_TD))
        q_THd, k_TKd, v_TKd = qkv.view(qkv.shape[0], -1, self.head_dim).split(self.head_counts, dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q_THd, k_TKd = self.q_norm(q_THd), self.k_norm(k_TKd)
        attended: Tensor = attend(self.index, rotate(q_THd, rotation), rotate(k_TKd, rotation), v_TKd)
        hidden_TD = hidden_TD + self.out(attended)
        gate_TF, up_TF = self.gate_up(self.post_norm(hidden_TD)).chunk(2, dim=-1)
        down_TD: Tensor = self.down(F.silu(gate_TF) * up_TF)
        return hidden_TD + down_TD


def rotary_table(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [P, d / 2] in float32 (Su et al., arXiv 2104.09864)."""
    device = "cpu"  # whatever the default: it has to hold values, also while a model is built on the meta device
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    positions = torch.arange(config.max_positions, dtype=torch.float32, device=device)
    angles = torch.outer(positions, config.rope_theta**-exponents)
    return angles.cos(), angles.sin()


def rotate(x_Thd: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each head's halves by the token's position; same shape."""
    left, right = x_Thd.chunk(2, dim=-1)
    cos, sin = rotation
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
