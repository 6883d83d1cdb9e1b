"""Counts the cores that this process may really use."""

import math
import os
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores(*, cgroup_root: Path = _CGROUP_ROOT, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Return the cores that affinity and the quota of the control group leave, at least 1.

    A quota of parts of a core is rounded up: one thread more than the quota is stopped for a small part of the time.

    Args:
        cgroup_root: Where control groups are mounted.
        own_cgroup: Which group this process is in, `/proc/self/cgroup`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup_root, own_cgroup)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(root: Path, own_cgroup: Path) -> float | None:
    """Return the smallest quota of this process's group and the groups around it, in cores; None without one."""
    found = [_quota_of(folder) for folder in _folders(root, own_cgroup)]
    return min((quota for quota in found if quota is not None), default=None)


def _folders(root: Path, own_cgroup: Path) -> list[Path]:
    """List the folders of this process's groups in both versions, and those above them."""
    try:
        lines = own_cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            base = root
        elif "cpu" in controllers.split(","):
            base = root / "cpu"
        else:
            continue
        inner = base / path.lstrip("/")
        folders += [inner, *(parent for parent in inner.parents if parent == base or base in parent.parents)]
    return folders


def _quota_of(folder: Path) -> float | None:
    try:  # version 2: "max 100000", or microseconds of a period
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        try:  # version 1: -1 without a quota
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        except OSError:
            return None
    if quota == "max" or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)
