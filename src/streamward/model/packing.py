"""Linear layers of torch in the CPU's own layout, and the dtype that torch computes fast on this CPU."""

import torch
from torch import Tensor, nn

_PACKED_ROWS = 16  # rows of the activations the layout is chosen for: a chunk of a stream


def serving_dtype() -> torch.dtype:
    """Return bfloat16 where the CPU multiplies it natively, else float32."""
    return torch.bfloat16 if _has_fast_bfloat16() else torch.float32


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether this build of torch packs weights of a dtype for this CPU.

    The operations are private to torch, so a build without them is served with plain linear layers.
    """
    operations = torch.ops.mkldnn
    has_operations = hasattr(operations, "_reorder_linear_weight") and hasattr(operations, "_linear_pointwise")
    if not has_operations or not torch.backends.mkldnn.is_available():
        return False
    return dtype is torch.float32 or (dtype is torch.bfloat16 and _has_fast_bfloat16())


class PackedLinear(nn.Module):
    """A linear layer without bias whose weight oneDNN has reordered once; reading it in place saves half the time."""

    def __init__(self, weight: Tensor) -> None:
        """Reorder a weight [out, in]; the caller drops the original."""
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T, [..., out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.packed, None, "none", [], "")
        return out


def pack_linears(model: nn.Module) -> None:
    """Replace every linear layer of a model on the CPU by a packed one, where torch supports that.

    The model can then be run but no longer be saved or trained.
    """
    for module, name, linear in _linears(model):
        weight = linear.weight.detach()
        if weight.device.type == "cpu" and can_pack(weight.dtype):
            setattr(module, name, PackedLinear(weight))


def _linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """List the linear layers of a model: where each is, and its name there."""
    return [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.Linear)
    ]


def _has_fast_bfloat16() -> bool:
    is_supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    return bool(is_supported is not None and is_supported() and has_instructions())
