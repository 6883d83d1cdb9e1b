"""A guard as replicas on Ray Serve, and the service's end of it."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, ProxyLocation, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from streamward.distributed.autoscaling import READS, by_reads
from streamward.distributed.batching import ReadBatcher
from streamward.distributed.cluster import join_ray
from streamward.distributed.config import ApplicationArguments, ReplicaSetConfig
from streamward.distributed.remote import RemoteTokenScorer, ReplicaLostError
from streamward.distributed.replica import GuardReplica
from streamward.distributed.router import StickyRouter
from streamward.distributed.wire import Description, ReadReply, ReadRequest
from streamward.engine.config import EngineConfig
from streamward.errors import CheckpointError, ConfigError, OverloadedError
from streamward.guard_call import GuardCall, current_call
from streamward.loading import find_checkpoint, find_served, load_engine
from streamward.model.config_file import read_config
from streamward.model.guard_config import is_stream_checkpoint
from streamward.moderation.coroutines import run_async, without_waiting
from streamward.moderation.moderator import Moderator
from streamward.moderation.stream_guard import StreamGuard
from streamward.policy import Policy
from streamward.tokenizer import GuardTokenizer

logger = logging.getLogger(__name__)

_HEALTH_S, _HEALTH_TIMEOUT_S = 2.0, 20.0  # a replica that computes answers late; one that hangs must be found
_DESCRIBE_S = 60.0
_MAX_SHARED_TOKENS = 64  # of a read that shares its call: a long text would keep the others waiting
_MAX_SENDERS = 128  # threads that make shared calls; two for each replica are enough
_QUEUED_PER_READ = 16  # calls that may wait in the service for each that a replica takes


class ServeReplica:
    """A `GuardReplica` as Ray Serve calls it."""

    def __init__(self, guard: str, engine: EngineConfig, replica_set: ReplicaSetConfig) -> None:
        """Load the guard."""
        name = serve.get_replica_context().replica_id.unique_id
        folder = find_served(guard, engine=engine, dtype=replica_set.dtype)
        loaded = load_engine(folder, engine=engine, dtype=replica_set.dtype)
        self._replica = GuardReplica(loaded, guard=guard, name=name, idle_s=replica_set.idle_s)
        self._pool = ThreadPoolExecutor(replica_set.max_reads, thread_name_prefix="streamward-read")
        self._num_reads = 0

    async def describe(self, replica: None = None) -> Description:
        """Say which guard this is."""
        return self._replica.describe()

    async def pid(self, replica: str | None = None) -> tuple[str, int]:
        """Return the name of the replica and its process, for those who watch it."""
        return serve.get_replica_context().replica_id.unique_id, os.getpid()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Say how many reads are under way; Ray asks for it by this name."""
        return {READS: float(self._num_reads)}

    async def read(self, requests: Sequence[ReadRequest], replica: str | None = None) -> list[ReadReply]:
        """Read new tokens of some streams; `replica` is for the router."""
        self._num_reads += len(requests)
        try:
            reads = [self._read(request) for request in requests]
            return await asyncio.gather(*reads)
        finally:
            self._num_reads -= len(requests)

    async def _read(self, request: ReadRequest) -> ReadReply:
        read = partial(without_waiting, partial(self._replica.read, request))
        return await run_async(read, executor=self._pool, call=GuardCall())

    async def forget(self, stream: str, replica: str) -> None:
        """Drop a stream."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._replica.forget, stream)


def build(arguments: Mapping[str, Any]) -> serve.Application:  # Any: values as in YAML
    """Return the replicas as an application; a Ray Serve config file names this function as its import path.

    Raises:
        ConfigError: An argument is unknown or wrong.
    """
    return application(ApplicationArguments.parse(dict(arguments), source="application arguments"))


def application(arguments: ApplicationArguments) -> serve.Application:
    """Return the replicas as an application."""
    replica_set = arguments.ray
    deployment = serve.deployment(ServeReplica).options(
        name="guard",
        max_ongoing_requests=replica_set.max_reads,
        max_queued_requests=replica_set.max_reads * _QUEUED_PER_READ,
        autoscaling_config=AutoscalingConfig(
            min_replicas=replica_set.min_replicas,
            max_replicas=replica_set.max_replicas,
            target_ongoing_requests=replica_set.target_reads,
            upscale_delay_s=replica_set.upscale_delay_s,
            downscale_delay_s=replica_set.downscale_delay_s,
            policy=AutoscalingPolicy(policy_function=by_reads),
        ),
        request_router_config=RequestRouterConfig(request_router_class=StickyRouter),
        ray_actor_options={"num_cpus": replica_set.cpus, "num_gpus": replica_set.gpus},
        health_check_period_s=_HEALTH_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=replica_set.timeout_s,
        logging_config={"enable_access_log": False},
    )
    bound: serve.Application = deployment.bind(arguments.guard, arguments.engine, replica_set)
    return bound


class RayReplicaSet:
    """The replicas of a Ray Serve application. From `open`; close it."""

    def __init__(self, handle: DeploymentHandle, config: ReplicaSetConfig, *, has_joined: bool) -> None:
        """Take over an application.

        Args:
            handle: Handle of its replicas.
            config: Says whether it is deleted at the end.
            has_joined: Whether this process leaves Ray at the end.
        """
        self._handle = handle
        self._config = config
        self._has_joined = has_joined
        self._senders = ThreadPoolExecutor(_MAX_SENDERS, thread_name_prefix="streamward-send")
        self._batchers: dict[str, ReadBatcher] = {}

    @classmethod
    def open(cls, arguments: ApplicationArguments) -> Self:
        """Join Ray, or start it, and deploy the replicas if they are to be deployed. Returns when there is one.

        Raises:
            ConfigError: There is no such cluster or application, or this machine has too few cores.
            CheckpointError: No replica could load the guard.
        """
        config = arguments.ray
        has_joined = join_ray(config.address, cores_needed=config.cpus * config.min_replicas)
        try:
            return cls(_deploy(arguments) if config.deploy else _find(config), config, has_joined=has_joined)
        except BaseException:
            _leave(config, has_joined=has_joined)
            raise

    @property
    def handle(self) -> DeploymentHandle:
        """Handle through which Ray Serve takes calls."""
        return self._handle

    def describe(self) -> Description:
        """Ask a replica which guard it has.

        Raises:
            OverloadedError: Nobody answered.
        """
        try:
            description: Description = self._handle.describe.remote().result(timeout_s=_DESCRIBE_S)
        except (RayError, RayServeException, TimeoutError) as error:
            raise OverloadedError("no replica of the guard answers; try again later") from error
        return description

    def read(self, request: ReadRequest, *, replica: str | None, timeout_s: float) -> ReadReply:
        """Have tokens read; see `ReplicaSet.read`. Short reads of streams at one replica share calls."""
        num_tokens = sum(len(token_ids) for token_ids, _ in request.segments)
        try:
            if replica is None or num_tokens > _MAX_SHARED_TOKENS:
                return self._call([request], replica=replica, timeout_s=timeout_s)[0]
            return self._batcher(replica).read(request, timeout_s=timeout_s)
        except BackPressureError as error:
            raise OverloadedError("too many texts wait for a replica; try again later") from error
        except TimeoutError as error:
            raise OverloadedError(f"no replica judged the text within {timeout_s:.0f} s; try again later") from error
        except RayTaskError as error:
            if not isinstance(error.cause, RayActorError):
                raise
            raise self._lost(replica) from None
        except (RayError, RayServeException):
            raise self._lost(replica) from None

    def _lost(self, replica: str | None) -> ReplicaLostError:
        self._batchers.pop(replica or "", None)
        return ReplicaLostError("the replica was lost")

    def _call(self, requests: Sequence[ReadRequest], *, replica: str | None, timeout_s: float) -> Sequence[ReadReply]:
        response = self._handle.read.remote(requests, replica=replica)
        with current_call().waking(response.cancel):  # of reads that share a call the others go on
            replies: list[ReadReply] = response.result(timeout_s=timeout_s)
        return replies

    def _batcher(self, replica: str) -> ReadBatcher:
        """Return what gathers the reads for a replica."""

        def send(requests: Sequence[ReadRequest], timeout_s: float) -> Sequence[ReadReply]:
            return self._call(requests, replica=replica, timeout_s=timeout_s)

        return self._batchers.setdefault(replica, ReadBatcher(send, pool=self._senders))

    def forget(self, stream: str, *, replica: str) -> None:
        """Tell a replica that a stream is over."""
        self._handle.forget.remote(stream, replica=replica)

    def close(self) -> None:
        """Delete the application if it was deployed here, and stop Ray if it was started here."""
        self._senders.shutdown(wait=False)
        _leave(self._config, has_joined=self._has_joined)


def _deploy(arguments: ApplicationArguments) -> DeploymentHandle:
    serve.start(proxy_location=ProxyLocation.Disabled, logging_config={"log_level": "WARNING"})
    try:
        return serve.run(application(arguments), name=arguments.ray.application, route_prefix=None)
    except RuntimeError as error:
        raise CheckpointError(f"no replica could load {arguments.guard!r}; Ray's logs say why") from error


def _find(config: ReplicaSetConfig) -> DeploymentHandle:
    try:
        return serve.get_app_handle(config.application)
    except RayServeException as error:
        raise ConfigError(f"there is no Ray Serve application {config.application!r} in the cluster") from error


def _leave(config: ReplicaSetConfig, *, has_joined: bool) -> None:
    """Tidy up as far as Ray lets us; it gives up replicas that hang after a minute."""
    try:
        if config.deploy:
            serve.delete(config.application)
        if has_joined and config.address is None:
            serve.shutdown()
    except (RayError, RayServeException, TimeoutError) as error:
        logger.warning("the replicas were not stopped in order", extra={"error_class": type(error).__name__})
    if has_joined:
        ray.shutdown()


def open_moderator(arguments: ApplicationArguments, *, policy: Policy, max_chars: int, max_workers: int) -> Moderator:
    """Return a moderator whose guard is read by replicas.

    Args:
        arguments: The guard and its replicas.
        policy: As for `streamward.load`; likewise the others.
        max_chars: Longest conversation, in characters.
        max_workers: Conversations judged together.

    Raises:
        ConfigError: It is no Stream guard, or Ray cannot be joined or has too few cores.
        CheckpointError: There is no such guard, or no replica could load it.
        OverloadedError: No replica answers.
    """
    if arguments.guard.startswith(("http://", "https://")):
        raise ConfigError("a guard behind an address has its own replicas; serve it without --ray")
    folder = find_checkpoint(arguments.guard)
    if not is_stream_checkpoint(read_config(folder)):
        raise ConfigError(
            f"{arguments.guard!r} judges whole texts only; --ray is for Stream guards."
            " Serve a Gen guard with vLLM or SGLang and name its address instead"
        )
    replica_set = RayReplicaSet.open(arguments)
    try:
        driver = RemoteTokenScorer(replica_set, replica_set.describe(), timeout_s=arguments.ray.timeout_s)
        guard = StreamGuard(GuardTokenizer.from_folder(folder), driver)
    except BaseException:
        replica_set.close()
        raise
    return Moderator(guard, policy=policy, max_chars=max_chars, max_workers=max_workers)
