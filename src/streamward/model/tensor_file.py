"""Safetensors files as numpy arrays, without torch. bfloat16 travels as uint16, because numpy has no such type."""

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from streamward.errors import CheckpointError
from streamward.kernels.bfloat16 import from_bfloat16, to_bfloat16

_STORED = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "<i1"}  # by safetensors' name
_ALIGNMENT = 64  # bytes: where the first tensor begins
FLOATS = ("BF16", "F16", "F32", "F64")
_OF_ARRAY = {"uint16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int8": "I8"}
Array = NDArray[Any]  # Any: of the dtypes above


class TensorFile:
    """The tensors of one safetensors file, mapped into memory: what is not read costs nothing."""

    def __init__(self, path: Path) -> None:
        """Open a file and check its header.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: It is damaged or not a safetensors file.
        """
        self.path = path
        try:
            with safe_open(path, framework="np") as file:  # the library checks the header and all offsets
                self.metadata: Mapping[str, str] = file.metadata() or {}
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
        (size,) = struct.unpack("<Q", self._bytes[:8].tobytes())
        self._first = 8 + size
        header = json.loads(self._bytes[8 : self._first].tobytes())
        self._entries: dict[str, Any] = {name: each for name, each in header.items() if name != "__metadata__"}

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._entries[name]["shape"])

    def dtype(self, name: str) -> str:
        """Return a tensor's dtype as safetensors spells it: `BF16`, `F32`, `I8`."""
        return str(self._entries[name]["dtype"])

    def array(self, name: str) -> Array:
        """Return a read-only view of a tensor; bfloat16 as uint16.

        Raises:
            CheckpointError: The dtype is not one of this module.
        """
        if self.dtype(name) not in _STORED:
            raise CheckpointError(f"{self.path}: {name} is of {self.dtype(name)}; expected one of {', '.join(_STORED)}")
        begin, end = (self._first + offset for offset in self._entries[name]["data_offsets"])
        flat = np.frombuffer(self._bytes[begin:end], dtype=_STORED[self.dtype(name)])
        return flat.reshape(self.shape(name))

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return a tensor of floating-point numbers as float32."""
        array = self.array(name)
        return from_bfloat16(array) if self.dtype(name) == "BF16" else array.astype(np.float32)

    def bfloat16(self, name: str) -> NDArray[np.uint16]:
        """Return a tensor of floating-point numbers as bfloat16; a view if it is stored like that."""
        return self.array(name) if self.dtype(name) == "BF16" else to_bfloat16(self.floats(name))

    def release_pages(self) -> None:
        """Give back the memory of what was read; arrays stay valid and read it from the file again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._bytes._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # numpy's attribute


def save_tensors(path: Path, tensors: Mapping[str, Array], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as a safetensors file; uint16 as bfloat16.

    Args:
        path: Written or overwritten.
        tensors: Tensors of uint16, float16, float32, float64 or int8.
        metadata: Texts stored in the header.
    """
    arrays = {
        name: np.ascontiguousarray(array).astype(_STORED[_OF_ARRAY[array.dtype.name]], copy=False)
        for name, array in tensors.items()
    }
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # every tensor is aligned to its dtype
    end = 0
    for name in names:
        begin, end = end, end + arrays[name].nbytes
        stored = _OF_ARRAY[tensors[name].dtype.name]
        header[name] = {"dtype": stored, "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(len(encoded) + 8) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            file.write(arrays[name].data)
