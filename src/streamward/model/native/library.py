"""The compiled kernels of `*.c`, called through ctypes. They are optional: not every machine builds or runs them."""

import ctypes
import functools
import importlib.util
import logging
from typing import ClassVar

import torch  # noqa: F401  # loads the OpenMP runtime that the kernels share with it

logger = logging.getLogger(__name__)

MAX_ROWS = 64
"""Query rows of one item of attention: new tokens times the query heads that share a key head."""
STORE, ADD, GATE = range(3)
"""What becomes of a product; see linear.h."""
SIZE_STEP = 64
"""Inputs and outputs of a layer are multiples of it."""
_MAX_HEAD_DIM = 256
_VERSION = 6  # of the structures below, as in layers.c
_STRIP, _PART = 16, 32  # as in cache.h
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long


class LinearStruct(ctypes.Structure):
    """`Linear` in linear.h."""

    _fields_: ClassVar = [
        *((name, _POINTER) for name in ("weights", "steps")),
        *((name, _LONG) for name in ("num_inputs", "num_outputs")),
    ]


class Operand(ctypes.Structure):
    """`Operand` in linear.h."""

    _fields_: ClassVar = [(name, _POINTER) for name in ("values", "scales", "offsets")]


class CacheShape(ctypes.Structure):
    """`CacheShape` in cache.h."""

    _fields_: ClassVar = [
        (name, _LONG) for name in ("num_kv_heads", "head_dim", "page_tokens", "page_bytes", "is_int8")
    ]


class RotatePlan(ctypes.Structure):
    """`RotatePlan` in layers.h."""

    _fields_: ClassVar = [
        ("num_heads", _LONG),
        ("eps", ctypes.c_float),
        ("cache", CacheShape),
        *((name, _POINTER) for name in ("cosines", "sines", "positions", "slots")),
    ]


class AttendPlan(ctypes.Structure):
    """`AttendPlan` in layers.h."""

    _fields_: ClassVar = [
        *((name, _LONG) for name in ("num_heads", "num_items")),
        ("cache", CacheShape),
        *((name, _POINTER) for name in ("items", "pages")),
    ]


class LayerStruct(ctypes.Structure):
    """`Layer` in decode.c."""

    _fields_: ClassVar = [
        *((name, _POINTER) for name in ("qkv", "out", "gate_up", "down")),
        *((name, _POINTER) for name in ("input_norm", "q_norm", "k_norm", "post_norm")),
        *((name, _POINTER) for name in ("usual_keys", "directions", "cache")),
    ]


class DecoderStruct(ctypes.Structure):
    """`Decoder` in decode.c."""

    _fields_: ClassVar = [
        *((name, _LONG) for name in ("num_layers", "hidden_size")),
        ("eps", ctypes.c_float),
        *((name, _POINTER) for name in ("layers", "embeddings", "norm")),
    ]


class Buffers(ctypes.Structure):
    """`Buffers` in decode.c."""

    _fields_: ClassVar = [
        *((name, _POINTER) for name in ("hidden", "wide", "q")),
        ("operand", Operand),
        ("final", _POINTER),
    ]


_SIGNATURES = {
    "streamward_decode": (*[_POINTER] * 5, _LONG),
    "streamward_linear": (*[_POINTER] * 4, _LONG),
    "streamward_heads": (*[_POINTER] * 3, ctypes.c_float, *[_POINTER] * 4, _LONG),
    "streamward_multiply": (*[_POINTER] * 3, _LONG, ctypes.c_int),
    "streamward_pack": (*[_POINTER] * 3, _LONG),
    "streamward_norm": (_POINTER, _POINTER, ctypes.c_float, _POINTER, _LONG, _LONG),
    "streamward_norm_pack": (*[_POINTER] * 3, ctypes.c_float, _POINTER, _LONG),
    "streamward_rotate_store": (*[_POINTER] * 8, _LONG),
    "streamward_attend": (*[_POINTER] * 6, _LONG),
}


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Return the kernels; None where they were not built or the CPU lacks AVX512-BF16, which the log says."""
    spec = importlib.util.find_spec("streamward.model.native._kernels")
    if spec is None or spec.origin is None:
        logger.info("native kernels were not built; torch's operations are used")
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as error:
        logger.warning("native kernels cannot be loaded; torch's operations are used", extra={"reason": str(error)})
        return None
    if not library.streamward_is_supported():
        logger.info("native kernels need AVX512-BF16; torch's operations are used")
        return None
    version = getattr(library, "streamward_version", None)
    if version is None or version() != _VERSION:
        logger.warning("native kernels are of another version, install again; torch's operations are used")
        return None
    for name, types in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


def cache_token_bytes(*, num_kv_heads: int, head_dim: int, is_int8: bool) -> int:
    """Return what a token takes in the cache of one layer; see cache.h.

    Args:
        num_kv_heads: Key heads.
        head_dim: Size of a head.
        is_int8: Whether keys and values have 8 bits.
    """
    exact = 4 + 2 * (head_dim // _PART + 1)
    return num_kv_heads * (2 * head_dim + exact if is_int8 else 4 * head_dim)


def is_supported(*, head_dim: int, group: int, page_tokens: int) -> bool:
    """Whether attention takes a decoder's shape.

    Args:
        head_dim: Size of a head.
        group: Query heads that share a key head.
        page_tokens: Of the cache.
    """
    has_whole_strips = page_tokens % _STRIP == 0
    return has_whole_strips and head_dim % SIZE_STEP == 0 and head_dim <= _MAX_HEAD_DIM and group <= MAX_ROWS
