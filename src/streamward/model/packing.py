"""Linear layers in the CPU's own layout, and the dtype that suits the CPU."""

import ctypes

import torch
from torch import Tensor, nn

from streamward.errors import ConfigError
from streamward.model.calibration_pass import calibration_ids
from streamward.model.decoder import Decoder
from streamward.model.heads import SideHeads
from streamward.model.layers import DecoderLayer
from streamward.model.memory import Arena
from streamward.model.native.library import kernels
from streamward.model.native_heads import NativeHeads
from streamward.model.native_linear import NativeLinear
from streamward.model.sensitive_layers import sensitive_layers
from streamward.model.smoothquant import apply_smoothquant

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


def quantize_linears(decoder: Decoder) -> None:
    """Give linear layers of a decoder weights of 8 bits, but for those that it costs most; `pack_linears` takes these.

    It can then be run but no longer be saved or trained.

    Raises:
        ConfigError: There are no native kernels, or they do not take a layer's shape or dtype.
    """
    library = kernels()
    if library is None:
        raise ConfigError(
            "weights of 8 bits need the native kernels (a C compiler at installation, a CPU with AVX512-BF16);"
            " set weights to full"
        )
    linears = _linears(decoder.layers)
    for _, name, linear in linears:
        if not NativeLinear.is_supported(linear.weight):
            raise ConfigError(
                f"weights of 8 bits need bfloat16 and sizes that are multiples of 64; {name} is"
                f" {linear.weight.dtype} {list(linear.weight.shape)}; set weights to full"
            )
    ids_T = calibration_ids(decoder)
    apply_smoothquant(decoder, ids_T)
    exact = sensitive_layers(decoder, ids_T, library=library)
    _pack_native([each for each in linears if each[2] not in exact], library=library, is_int8=True)


def pack_linears(model: nn.Module, *, native: bool = True) -> None:
    """Replace every linear layer of a model on the CPU by a packed one, where that is possible.

    The model can then be run but no longer be saved or trained.

    Args:
        model: Whose layers.
        native: Whether those of decoder layers and heads are packed for the native kernels where these run. Beyond
            their speed, these have one form for every number of tokens, where oneDNN compiles and keeps one for each.
    """
    library = kernels() if native else None
    if library is not None:
        in_layers = [each for each in _linears(model) if isinstance(each[0], DecoderLayer)]
        _pack_native(
            [each for each in in_layers if NativeLinear.is_supported(each[2].weight)], library=library, is_int8=False
        )
        _pack_heads(model, library=library)
    for module, name, linear in _linears(model):
        weight = linear.weight.detach()
        if weight.device.type == "cpu" and can_pack(weight.dtype):
            setattr(module, name, PackedLinear(weight))


def _pack_native(linears: list[tuple[nn.Module, str, nn.Linear]], *, library: ctypes.CDLL, is_int8: bool) -> None:
    """Replace linear layers by such that the kernels read, side by side in memory in the order of the list."""
    arena = Arena(sum(NativeLinear.packed_nbytes(linear.weight, is_int8=is_int8) for _, _, linear in linears))
    for module, name, linear in linears:
        packed = NativeLinear(
            linear.weight.detach(), library=library, is_int8=is_int8, is_gated=name == "gate_up", arena=arena
        )
        setattr(module, name, packed)


def _pack_heads(model: nn.Module, *, library: ctypes.CDLL) -> None:
    found = [(module, name, child) for module in model.modules() for name, child in module.named_children()]
    for module, name, child in found:
        if isinstance(child, SideHeads) and NativeHeads.is_supported(child):
            setattr(module, name, NativeHeads(child, library=library))


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
