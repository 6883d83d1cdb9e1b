"""The structures of `csrc/types.h`, as ctypes sees them."""

import ctypes
from typing import ClassVar

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class LinearArgs(ctypes.Structure):
    """`Linear`."""

    _fields_: ClassVar = [
        ("weights", _POINTER),
        ("scales", _POINTER),
        ("num_inputs", _INT),
        ("num_outputs", _INT),
        ("kind", _INT),
    ]


class OperandArgs(ctypes.Structure):
    """`Operand`."""

    _fields_: ClassVar = [(name, _POINTER) for name in ("values", "scales", "offsets")]


class CacheArgs(ctypes.Structure):
    """`CacheShape`."""

    _fields_: ClassVar = [(name, _INT) for name in ("num_kv_heads", "head_dim", "page_tokens", "page_bytes", "is_int8")]


class LayerArgs(ctypes.Structure):
    """`Layer`."""

    _fields_: ClassVar = [
        *((name, _POINTER) for name in ("qkv", "out", "gate_up", "down")),
        *((name, _POINTER) for name in ("input_norm", "post_norm", "q_norm", "k_norm")),
        *((name, _POINTER) for name in ("attention_out_norm", "mlp_out_norm", "mean_key", "outlier_direction")),
        *((name, _POINTER) for name in ("cosines", "sines")),
        ("window", _INT),
        ("cache", _POINTER),
    ]


class DecoderArgs(ctypes.Structure):
    """`Decoder`."""

    _fields_: ClassVar = [
        *((name, _INT) for name in ("num_layers", "hidden_size", "num_heads", "activation")),
        *((name, _FLOAT) for name in ("eps", "embedding_scale")),
        ("cache", CacheArgs),
        ("fast_attention", _INT),
        *((name, _POINTER) for name in ("layers", "embeddings", "embedding_scales", "norm")),
    ]


class StepArgs(ctypes.Structure):
    """`Step`."""

    _fields_: ClassVar = [
        ("num_rows", _INT),
        ("num_items", _INT),
        *((name, _POINTER) for name in ("ids", "positions", "slots", "items", "pages")),
    ]


class BufferArgs(ctypes.Structure):
    """`Buffers`."""

    _fields_: ClassVar = [
        *((name, _POINTER) for name in ("hidden", "branch", "wide", "q")),
        ("operand", OperandArgs),
        ("final", _POINTER),
        ("num_taps", _INT),
        *((name, _POINTER) for name in ("tap_layers", "taps", "queries")),
    ]


SIGNATURES: dict[str, tuple[type, ...]] = {
    "decode": (_POINTER, _POINTER, _POINTER),
    "linear": (*[_POINTER] * 4, _INT),
    "heads": (*[_POINTER] * 3, _FLOAT, *[_POINTER] * 4, _INT),
    "softmax": (_POINTER, _POINTER, _INT, _INT),
    "pack_weight": (*[_POINTER] * 3, *[_INT] * 3),
    "quantize_weight": (_POINTER, *[_INT] * 3, _POINTER, _POINTER),
    "dequantize_weight": (_POINTER, _POINTER, _INT, _INT, _POINTER),
    "round_bf16": (_POINTER, _POINTER, _INT),
    "multiply": (*[_POINTER] * 3, _INT, _INT),
}
"""Arguments of the functions of a unit, behind its number; see dispatch.c."""
