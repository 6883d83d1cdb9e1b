"""Low-rank updates on a decoder's fused projections (Hu et al., arXiv 2106.09685)."""

# Shapes: T tokens; I inputs; O outputs; R rank.

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamward.errors import ConfigError
from streamward.model.decoder import Decoder

TARGETS = ("qkv", "out", "gate_up", "down")


class LoraLinear(nn.Module):
    """W x + (alpha / rank) B A x, with W frozen and A, B in float32."""

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with its update; same dtype as `x`."""
        scaled_b = self.lora_b.to(x.dtype) * self.scale
        result: Tensor = _Updated.apply(x, self.base.weight, self.lora_a.to(x.dtype), scaled_b)  # type: ignore[no-untyped-call]  # torch leaves it so
        return result


class _Updated(torch.autograd.Function):
    """x W^T + (x A^T) B^T over a frozen W.

    The update's product accumulates into the other one, forward and backward: adding two bfloat16 tensors on a CPU
    takes as long as the product with W itself.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor
    ) -> Tensor:  # Any: torch's context
        low_TR = F.linear(x_TI, a_RI)
        ctx.save_for_backward(x_TI, weight_OI, a_RI, b_OR, low_TR)
        return F.linear(x_TI, weight_OI).addmm_(low_TR, b_OR.T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor]:  # Any: as above
        x_TI, weight_OI, a_RI, b_OR, low_TR = ctx.saved_tensors
        (grad_TO,) = grads
        grad_TR = grad_TO @ b_OR
        grad_TI = (grad_TO @ weight_OI).addmm_(grad_TR, a_RI) if ctx.needs_input_grad[0] else None
        return grad_TI, None, grad_TR.T @ x_TI, grad_TO.T @ low_TR


def add_lora(decoder: Decoder, *, rank: int, alpha: float) -> None:
    """Freeze a decoder and put low-rank updates on every projection of its layers."""
    decoder.requires_grad_(False)
    for layer in decoder.layers:
        for name in TARGETS:
            setattr(layer, name, LoraLinear(getattr(layer, name), rank=rank, alpha=alpha))


@contextmanager
def lowest_frozen(decoder: Decoder, num_layers: int) -> Iterator[None]:
    """Keep the updates of the lowest layers as they are meanwhile; nothing is computed backward through these.

    Raises:
        ConfigError: The decoder has no layer above them.
    """
    if num_layers >= len(decoder.layers):
        raise ConfigError(f"frozen_layers is {num_layers}; of {len(decoder.layers)} layers at least one must learn")
    lowest = decoder.layers[:num_layers]
    changing = [parameter for parameter in lowest.parameters() if parameter.requires_grad]
    for parameter in changing:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changing:
            parameter.requires_grad_(True)


def lora_modules(decoder: Decoder) -> Iterator[tuple[str, LoraLinear]]:
    """Yield each updated projection with its name in the decoder, e.g. `layers.0.qkv`."""
    for name, module in decoder.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


@torch.no_grad()
def merge_update(weight: Tensor, lora_a: Tensor, lora_b: Tensor, *, scale: float) -> None:
    """Add scale * B A to a weight in place, computed in float32."""
    weight.copy_((weight.float() + scale * (lora_b.float() @ lora_a.float())).to(weight.dtype))


def merge_lora(decoder: Decoder) -> None:
    """Add every update to its frozen weight and put the plain projections back."""
    for name, module in list(lora_modules(decoder)):
        merge_update(module.base.weight, module.lora_a, module.lora_b, scale=module.scale)
        parent, _, attribute = name.rpartition(".")
        setattr(decoder.get_submodule(parent), attribute, module.base)
