"""Settings of a guard that is spread over Ray. Imports without torch and without ray."""

from typing import Literal, Self

from pydantic import AliasChoices, Field, model_validator

from streamward.engine.config import EngineConfig
from streamward.settings import Settings


class ReplicaSetConfig(Settings):
    """Replicas of one guard on Ray Serve."""

    address: str | None = None
    """Ray cluster to join, as `auto` or `host:6379`; without, Ray is started on this machine and stopped at the end."""
    application: str = Field(default="streamward", pattern="^[A-Za-z0-9_-]+$")
    """Name of the Ray Serve application."""
    deploy: bool = True
    """If true, the application is deployed, and deleted at the end; false uses one that runs already."""
    min_replicas: int = Field(default=1, gt=0)
    """Replicas that are kept without any load."""
    max_replicas: int = Field(default=2, gt=0)
    """Most replicas."""
    target_reads: float = Field(default=8.0, gt=0, allow_inf_nan=False)
    """Reads under way at one replica that autoscaling aims at; a stream that waits for its model costs none."""
    max_reads: int = Field(default=256, gt=0)
    """Threads that read at one replica, and calls under way to it, of which one may hold several reads; more wait."""
    upscale_delay_s: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    """Time for which there must be too few replicas before one is added, in seconds."""
    downscale_delay_s: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    """Time for which there must be too many before one is drained, in seconds; its streams are read again elsewhere."""
    cpus: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Cores that Ray reserves for a replica, which are its threads unless `engine.threads` says otherwise."""
    gpus: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """GPUs that Ray reserves for a replica."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Dtype of weights and cache; by default bfloat16 where it is fast, else float32. A stream that moves is
    read again in other pieces, which shows in the last digits: of bfloat16 the third, of float32 the sixth."""
    timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """For new tokens to be judged, whatever happens to replicas meanwhile; what takes longer is answered 503."""
    idle_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    """A replica forgets a stream that was not read for so long; it is read again if it goes on."""

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is below min_replicas")
        if not self.deploy and self.address is None:
            raise ValueError("deploy is false, so address must say where the application runs")
        return self


class ApplicationArguments(Settings):
    """Arguments that a Ray Serve config file may give `streamward.distributed.serving:build`."""

    guard: str = "stream-135m"
    """Embedded guard, checkpoint folder or hub id, on every node alike."""
    engine: EngineConfig = EngineConfig()
    """Limits of each replica's engine."""
    ray: ReplicaSetConfig = Field(default=ReplicaSetConfig(), validation_alias=AliasChoices("ray", "fleet"))
    """Settings of the replicas; `fleet` is the former name, accepted until the next release."""
    """The replicas."""
