"""Low-rank updates on a decoder's fused projections (Hu et al., arXiv 2106.09685)."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamward.builtin.adapter import merge_update
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
        low = F.linear(x, self.lora_a.to(x.dtype))
        update = F.linear(low, self.lora_b.to(x.dtype) * self.scale)
        result: Tensor = self.base(x) + update
        return result


def add_lora(decoder: Decoder, *, rank: int, alpha: float) -> None:
    """Freeze a decoder and put low-rank updates on every projection of its layers."""
    decoder.requires_grad_(False)
    for layer in decoder.layers:
        for name in TARGETS:
            setattr(layer, name, LoraLinear(getattr(layer, name), rank=rank, alpha=alpha))


def lora_modules(decoder: Decoder) -> Iterator[tuple[str, LoraLinear]]:
    """Yield each updated projection with its name in the decoder, e.g. `layers.0.qkv`."""
    for name, module in decoder.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def merge_lora(decoder: Decoder) -> None:
    """Add every update to its frozen weight and put the plain projections back."""
    for name, module in list(lora_modules(decoder)):
        merge_update(module.base.weight, module.lora_a, module.lora_b, scale=module.scale)
        parent, _, attribute = name.rpartition(".")
        setattr(decoder.get_submodule(parent), attribute, module.base)
