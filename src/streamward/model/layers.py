"""One decoder layer with fused projections, and rotary positions."""

# Shapes: T tokens, packed; D hidden size; H query heads; K key/value heads; d head size; F intermediate size;
# P positions.

from collections.abc import Callable
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
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) * weight over the last dimension; same shape and dtype."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rotate(x_Thd: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each head's halves by the token's position; same shape."""
    left, right = x_Thd.chunk(2, dim=-1)
    cos, sin = rotation
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def gated(gate_up_T2F: Tensor) -> Tensor:
    """Return silu(left half) * right half of the last dimension."""
    gate_TF, up_TF = gate_up_T2F.chunk(2, dim=-1)
    return F.silu(gate_TF) * up_TF


def gelu_gated(gate_up_T2F: Tensor) -> Tensor:
    """Return gelu(left half) * right half of the last dimension, with the tanh approximation of GELU."""
    gate_TF, up_TF = gate_up_T2F.chunk(2, dim=-1)
    return F.gelu(gate_TF, approximate="tanh") * up_TF


class PointwiseOps(NamedTuple):
    """Operations of a layer between its projections; training may put compiled ones in their place."""

    norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Rotation], Tensor]
    gated: Callable[[Tensor], Tensor]


PLAIN_OPS = PointwiseOps(rms_norm, rotate, gated)
GEMMA_OPS = PointwiseOps(rms_norm, rotate, gelu_gated)


def plain_ops(config: ModelConfig) -> PointwiseOps:
    """Return what torch computes between the projections of a decoder's layers."""
    return GEMMA_OPS if config.is_gemma else PLAIN_OPS


def plain_linear(in_features: int, out_features: int) -> nn.Module:
    """Make a linear layer without bias, the only kind these families have."""
    return nn.Linear(in_features, out_features, bias=False)


class DecoderLayer(nn.Module):
    """Pre-norm attention and gated MLP, as in Llama and Qwen3; in Gemma 3 what either adds is normalised as well."""

    def __init__(self, config: ModelConfig, *, index: int) -> None:
        super().__init__()
        self.index = index
        self.ops = plain_ops(config)
        self.is_sliding = config.window_of(index) is not None
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
        self.attention_out_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps) if config.is_gemma else None
        self.mlp_out_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps) if config.is_gemma else None

    def forward(self, hidden_TD: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """Return the hidden states after this layer, [T, D]."""
        ops = self.ops
        qkv: Tensor = self.qkv(self._normalised(self.input_norm, hidden_TD))
        q_THd, k_TKd, v_TKd = qkv.view(qkv.shape[0], -1, self.head_dim).split(self.head_counts, dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q_THd, k_TKd = self._normalised(self.q_norm, q_THd), self._normalised(self.k_norm, k_TKd)
        attended: Tensor = attend(self.index, ops.rotate(q_THd, rotation), ops.rotate(k_TKd, rotation), v_TKd)
        hidden_TD = hidden_TD + self._normalised(self.attention_out_norm, self.out(attended))
        down_TD: Tensor = self.down(ops.gated(self.gate_up(self._normalised(self.post_norm, hidden_TD))))
        return hidden_TD + self._normalised(self.mlp_out_norm, down_TD)

    def _normalised(self, norm: RMSNorm | None, x: Tensor) -> Tensor:
        return x if norm is None else self.ops.norm(x, norm.weight, norm.eps)


def rotary_table(config: ModelConfig, *, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [P, d / 2] in float32 (Su et al., arXiv 2104.09864)."""
    device = "cpu"  # whatever the default: it has to hold values, also while a model is built on the meta device
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    positions = torch.arange(config.max_positions, dtype=torch.float32, device=device)
    angles = torch.outer(positions, theta**-exponents)
    return angles.cos(), angles.sin()
