"""The kernels with which this machine runs a guard."""

from typing import NamedTuple


class CpuPath(NamedTuple):
    """The way in which a guard is computed on this machine."""

    kernels: str
    threads: int
    is_native: bool
    """True if vector instructions of this machine are used, as opposed to the scalar kernels."""


def cpu_path() -> CpuPath:
    """Return the path in use; the only place that asks the kernels.

    Raises:
        ConfigError: The kernels were not built, or `STREAMWARD_CPU` names a unit that this machine lacks.
    """
    from streamward.kernels.library import available_units, load_kernels, num_threads

    unit = load_kernels().unit
    name = f"native kernels {unit} (available: {', '.join(available_units())})"
    return CpuPath(name, num_threads(), unit != "scalar")
