"""Routes a read of Ray Serve: to the replica that has the stream's cache, else to the less busy of two."""

import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class StickyRouter(RequestRouter):  # type: ignore[misc]  # ray is not installed where types are checked
    """Routes by the argument `replica` of a call: that one, for as long as it is there."""

    queue_len_response_deadline_s = 1.0  # a replica that computes answers late; Ray's 0.1 s would pass it over

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return who may be asked; of several the one with the shorter queue is."""
        wanted = None if pending_request is None else pending_request.kwargs.get("replica")
        named = [each for each in candidate_replicas if each.replica_id.unique_id == wanted]
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # a full replica is asked again a little later
        return [named or random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
