"""Which kernels this machine runs a guard with."""

from typing import NamedTuple

from streamward.errors import ConfigError


class CpuPath(NamedTuple):
    """How a guard is computed here."""

    kernels: str
    threads: int
    is_native: bool
    """Whether the compiled kernels run, as opposed to torch's slower operations or nothing."""


def cpu_path() -> CpuPath:
    """Return the unit of the kernels in use, and which others this machine could run."""
    from streamward.kernels.library import available_units, load_kernels, num_threads

    try:
        unit = load_kernels().unit
        others = [each for each in available_units() if each != unit]
    except ConfigError as error:
        return CpuPath(f"no native kernels: {error}", 1, is_native=False)
    name = f"native kernels, unit {unit}" + (f" (also {', '.join(others)})" if others else "")
    return CpuPath(name, num_threads(), is_native=True)
