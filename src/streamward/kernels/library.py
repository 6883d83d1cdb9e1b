"""The compiled kernels, and the choice of the unit (the code for one instruction set) that this machine runs."""

import ctypes
import functools
import os
import sys
from pathlib import Path

from streamward.errors import ConfigError
from streamward.kernels.structs import SIGNATURES
from streamward.kernels.threads import usable_cores

ENVIRONMENT_VARIABLE = "STREAMWARD_CPU"
"""Names the unit to use, instead of the fastest."""
_SUFFIX = {"win32": "dll", "darwin": "dylib"}.get(sys.platform, "so")
LIBRARY_PATH = Path(__file__).with_name(f"_kernels.{_SUFFIX}")
_VERSION = 1  # STRUCTS_VERSION in types.h


class Kernels:
    """The functions of one unit. All units compute the same bits, but for what is called fast."""

    def __init__(self, library: ctypes.CDLL, *, index: int, unit: str) -> None:
        """Made by `load_kernels`."""
        self.unit = unit
        """`scalar`, `avx2`, `avxvnni`, `avx512vnni`, `avx512bf16`, `dotprod` or `i8mm`."""
        self._index = index
        self._functions = {name: getattr(library, f"streamward_{name}") for name in SIGNATURES}

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the unit; other Python threads run meanwhile.

        Args:
            name: A key of `SIGNATURES`.
            arguments: Addresses and numbers, as there.
        """
        self._functions[name](self._index, *arguments)


def built_units() -> tuple[str, ...]:
    """Return the units in the library, the slowest first."""
    library = _library()
    return tuple(library.streamward_unit_name(index).decode() for index in range(library.streamward_num_units()))


def available_units() -> tuple[str, ...]:
    """Return those that this machine's processor and system can run, the slowest first."""
    library = _library()
    return tuple(unit for index, unit in enumerate(built_units()) if library.streamward_is_unit_supported(index))


def load_kernels(unit: str | None = None) -> Kernels:
    """Return the kernels of a unit; the same object each time.

    Args:
        unit: Its name; by default what the environment variable STREAMWARD_CPU names, else the fastest one.

    Raises:
        ConfigError: There is no such unit, this machine cannot run it, or the library is missing.
    """
    named_by = "unit" if unit is not None else ENVIRONMENT_VARIABLE
    unit = unit if unit is not None else os.environ.get(ENVIRONMENT_VARIABLE) or None
    if unit is None:
        unit = available_units()[-1]
    elif unit not in built_units():
        raise ConfigError(f"{named_by} is {unit!r}; this build has {', '.join(built_units())}")
    elif unit not in available_units():
        raise ConfigError(
            f"{named_by} is {unit!r}, which this machine cannot run; it runs {', '.join(available_units())}"
        )
    return _kernels(unit)


def rope_table_into(theta: float, *, head_dim: int, num_positions: int, cosines: int, sines: int) -> None:
    """Fill float32 tables [num_positions, head_dim / 2] at two addresses; the same bits on every machine."""
    _library().streamward_rope_table(theta, head_dim, num_positions, cosines, sines)


def set_num_threads(count: int) -> None:
    """Use so many threads from the next call on, the caller among them; all Python threads share them."""
    _library().streamward_set_num_threads(count)


def num_threads() -> int:
    """Return how many threads the kernels use; at first as many as this process has cores."""
    return int(_library().streamward_get_num_threads())


@functools.cache
def _kernels(unit: str) -> Kernels:
    return Kernels(_library(), index=built_units().index(unit), unit=unit)


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(LIBRARY_PATH))
    except OSError as error:
        raise ConfigError(
            f"the kernels cannot be loaded ({error}); install streamward again from a wheel, or with a C compiler"
        ) from error
    integer = ctypes.c_int64
    for name, types in SIGNATURES.items():
        function = getattr(library, f"streamward_{name}")
        function.argtypes, function.restype = (integer, *types), None
    for name in ("structs_version", "num_units", "get_num_threads"):
        getattr(library, f"streamward_{name}").restype = integer
    library.streamward_unit_name.argtypes, library.streamward_unit_name.restype = (integer,), ctypes.c_char_p
    library.streamward_is_unit_supported.argtypes, library.streamward_is_unit_supported.restype = (integer,), integer
    library.streamward_set_num_threads.argtypes, library.streamward_set_num_threads.restype = (integer,), None
    table = library.streamward_rope_table
    table.argtypes = (ctypes.c_double, integer, integer, ctypes.c_void_p, ctypes.c_void_p)
    table.restype = None
    if library.streamward_structs_version() != _VERSION:
        raise ConfigError("the kernels are of another version than this package; install streamward again")
    library.streamward_set_num_threads(usable_cores())
    return library
