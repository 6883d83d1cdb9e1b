"""The compiled kernels of `*.c`, called through ctypes. They are optional: not every machine builds or runs them."""

import ctypes
import functools
import importlib.util
import logging
from typing import ClassVar

import torch  # also loads the OpenMP runtime that the kernels share with it

logger = logging.getLogger(__name__)

MAX_ROWS = 64
"""Query rows of one item of attention: new tokens times the query heads that share a key head."""
_MAX_HEAD_DIM, _HEAD_STEP, _ROW_STEP = 256, 64, 16


class RotatePlan(ctypes.Structure):
    """`RotatePlan` in layers.c."""

    _fields_: ClassVar = [
        *((name, ctypes.c_long) for name in ("num_heads", "num_kv_heads", "head_dim", "num_slots")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("cosines", "sines", "positions", "slots")),
    ]


class AttendPlan(ctypes.Structure):
    """`AttendPlan` in attention.c."""

    _fields_: ClassVar = [
        *((name, ctypes.c_long) for name in ("num_heads", "num_kv_heads", "head_dim", "num_slots")),
        *((name, ctypes.c_long) for name in ("page_tokens", "num_items")),
        *((name, ctypes.c_void_p) for name in ("items", "pages")),
    ]


class Int8Shape(ctypes.Structure):
    """`Int8Linear` in int8.c."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in ("weights", "scales")),
        *((name, ctypes.c_long) for name in ("num_inputs", "num_outputs")),
    ]


_POINTER, _LONG = ctypes.c_void_p, ctypes.c_long
_SIGNATURES = {
    "streamward_add_norm": (*[_POINTER] * 4, _LONG, _LONG, ctypes.c_float),
    "streamward_silu_mul": (_POINTER, _POINTER, _LONG, _LONG),
    "streamward_rotate_store": (*[_POINTER] * 7, _LONG),
    "streamward_attend": (_POINTER,) * 5,
    "streamward_linear_int8": (_POINTER, _POINTER, _POINTER, _LONG, _POINTER),
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
    for name, types in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return library


def fits(*, head_dim: int, group: int, sizes: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether the kernels take a decoder's shape.

    Args:
        head_dim: Size of a head.
        group: Query heads that share a key head.
        sizes: Hidden and intermediate size.
        dtype: Of weights and cache.
    """
    has_heads = head_dim % _HEAD_STEP == 0 and head_dim <= _MAX_HEAD_DIM and group <= MAX_ROWS
    return dtype is torch.bfloat16 and has_heads and all(size % _ROW_STEP == 0 for size in sizes)
