"""Linear layers in the CPU's own layout, and the dtype that suits the CPU."""

import ctypes
from typing import ClassVar

import torch
from torch import Tensor, nn

from streamward.errors import ConfigError
from streamward.model.native.library import Int8Shape, kernels

_PACKED_ROWS = 16  # rows of the activations the layout is chosen for: a chunk of a stream


def serving_dtype() -> torch.dtype:
    """Return bfloat16 where the CPU multiplies it natively, else float32."""
    return torch.bfloat16 if _has_fast_bfloat16() else torch.float32


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch packs weights of a dtype for this CPU.

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


class Int8Linear(nn.Module):
    """A linear layer without bias whose weights have 8 bits, with scales for groups of 64; see `native/int8.c`."""

    _STEP: ClassVar = 64  # inputs and outputs are taken so many at a time

    def __init__(self, weight: Tensor, *, library: ctypes.CDLL) -> None:
        """Quantise a weight [out, in] of which `fits` is true; the caller drops the original."""
        super().__init__()
        num_outputs, num_inputs = weight.shape
        step = self._STEP
        groups = weight.float().view(num_outputs, num_inputs // step, step)
        scales = groups.abs().amax(dim=-1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.scales = scales.view(num_outputs // step, step, -1).transpose(1, 2).contiguous()
        shifted = (groups / scales[..., None]).round().add_(128).to(torch.uint8)
        panels = shifted.view(num_outputs // step, step, num_inputs // 4, 4)
        self.weights = panels.transpose(1, 2).contiguous()
        self._library = library
        self._shape = Int8Shape(self.weights.data_ptr(), self.scales.data_ptr(), num_inputs, num_outputs)
        self._address = ctypes.addressof(self._shape)
        self._scratch_bytes = num_inputs + 8 * num_inputs // self._STEP  # for each row

    @classmethod
    def fits(cls, weight: Tensor) -> bool:
        """Whether the kernel takes a weight."""
        return weight.dtype is torch.bfloat16 and all(size % cls._STEP == 0 for size in weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T, [rows, out]; x [rows, in] is rounded to 8 bits, in groups of 64 inputs of one row."""
        x = x.contiguous()
        out = x.new_empty(len(x), self._shape.num_outputs)
        scratch = torch.empty(len(x) * self._scratch_bytes, dtype=torch.int8)
        self._library.streamward_linear_int8(self._address, x.data_ptr(), out.data_ptr(), len(x), scratch.data_ptr())
        return out


_FULL = ("qkv",)  # queries and keys carry most of the error that rounding makes, a fifth of the weights at most


def quantize_linears(decoder: nn.Module) -> None:
    """Give the linear layers of a decoder, save those of queries, keys and values, weights of 8 bits.

    It can then be run but no longer be saved or trained. The layers left are `pack_linears`' to pack.

    Raises:
        ConfigError: There are no native kernels, or they do not take a layer's shape or dtype.
    """
    library = kernels()
    if library is None:
        raise ConfigError(
            "weights of 8 bits need the native kernels (a C compiler at installation, a CPU with AVX512-BF16);"
            " set weights to full"
        )
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name not in _FULL:
                if not Int8Linear.fits(child.weight):
                    raise ConfigError(
                        f"weights of 8 bits need bfloat16 and sizes that are multiples of 64; {name} is"
                        f" {child.weight.dtype} {list(child.weight.shape)}; set weights to full"
                    )
                setattr(module, name, Int8Linear(child.weight.detach(), library=library))


def pack_linears(model: nn.Module) -> None:
    """Replace every linear layer of a model on the CPU by a packed one, where that is possible.

    The model can then be run but no longer be saved or trained.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child.weight.device.type == "cpu" and can_pack(child.weight.dtype):
                setattr(module, name, PackedLinear(child.weight.detach()))


def _has_fast_bfloat16() -> bool:
    is_supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    return bool(is_supported is not None and is_supported() and has_instructions())
