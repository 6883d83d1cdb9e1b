"""Joining a Ray cluster, or starting Ray on this machine."""

import logging
import os

import ray

from streamward.errors import ConfigError


def join_ray(address: str | None, *, cores_needed: float) -> bool:
    """Make this process part of a Ray cluster. One that is part of it already stays so.

    Args:
        address: Address of the cluster; None starts Ray on this machine.
        cores_needed: What the first workers reserve; only checked on a Ray of one's own, others may grow.

    Returns:
        Whether this process was not part of one; then the caller calls `ray.shutdown` at the end.

    Raises:
        ConfigError: Nobody answers at the address, or this machine has too few cores.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing reaches the network unless the user says so
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 lets any other process starve the guard
    if ray.is_initialized():
        return False
    if address is not None:
        try:
            ray.init(address=address, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise ConfigError(f"there is no Ray cluster at {address!r}") from error
        return True
    cores = os.cpu_count() or 1
    if cores_needed > cores:
        raise ConfigError(f"the first replicas need {cores_needed:g} cores; this machine has {cores}")
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    return True
