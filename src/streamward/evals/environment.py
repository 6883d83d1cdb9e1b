"""Environment of a run: versions and hardware."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from streamward.kernels.library import num_threads

_PACKAGES = ("streamward", "torch", "tokenizers", "safetensors", "numpy", "httpx", "scikit-learn")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that judge."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:  # Any: JSON values
    """Return processor, cores, threads, memory and GPU."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": num_threads(),
        "memory_gb": _memory_gb(),
        "gpu": _gpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _gpu_name() -> str | None:
    """Return the name of torch's GPU; None if this process has not used torch."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # the machine does not run Linux
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
