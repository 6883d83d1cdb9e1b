"""Chooses the number of replicas. Ray Serve counts calls, of which one holds the reads of many streams."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

READS = "streamward_reads"
"""Name of the statistic that a replica reports: the number of reads under way."""


def by_reads(context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:  # Any: Ray's state of a policy
    """Return the replicas that bring reads under way to the target; Ray applies bounds and delays.

    Calls that wait for a replica count as a read each.
    """
    reads = (context.aggregated_metrics or {}).get(READS)
    if not reads:  # nothing was reported yet
        return context.target_num_replicas, {}
    waiting = context.total_queued_requests or 0.0
    return (sum(reads.values()) + waiting) / context.config.target_ongoing_requests, {}
