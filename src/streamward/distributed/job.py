"""`streamward moderate --ray`: files of any size, judged by workers on Ray Data and resumed after any interruption."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError

from streamward.distributed.cluster import join_ray
from streamward.distributed.judging import Judging, ShardJudge, WorkerError
from streamward.distributed.output import check_output, write_output
from streamward.distributed.parts import PartCounts, Parts
from streamward.distributed.source import Plan, Shard, open_source
from streamward.errors import InputError, StreamwardError
from streamward.loading import find_checkpoint
from streamward.policy import Policy

_VERSION = 2  # raise it when finished shards of before must not count any more
_MAX_BLOCKS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationJob:
    """A file to be judged.

    Attributes:
        guard: As for `streamward.load`.
        has_verdicts: Whether the verdict of every token is written.
        workers: At the same time, a core each.
        shard_rows: Most rows that a kill makes one worker do again.
        address: Ray cluster to join; None starts Ray on this machine.
    """

    source: Path
    output: Path
    guard: str
    policy: Policy
    has_verdicts: bool
    workers: int
    shard_rows: int
    address: str | None


def run_job(job: ModerationJob, on_progress: Callable[[int, int], object]) -> PartCounts:
    """Judge what is not judged yet, then write the output. May be killed at any time and called again.

    Args:
        job: What is to be done.
        on_progress: Told how many rows are finished, and of how many.

    Returns:
        What is in the output, by what came of it.

    Raises:
        InputError: The input cannot be read, the output is there already, or its folder of finished rows belongs to
            another job.
        ConfigError: Something is not installed, or Ray cannot be joined.
        CheckpointError: The guard cannot be loaded.
        WorkerError: Some rows kill every worker, or there are no workers left.
    """
    check_output(job.output)
    folder = job.output.with_name(f"{job.output.name}.parts")
    if job.output.exists() and not folder.exists():
        raise InputError(f"{str(job.output)!r} exists; remove it, or write to another file")
    plan = open_source(job.source).plan(job.shard_rows)
    if not plan.shards:
        raise InputError(f"{str(job.source)!r} has no rows, so there is nothing to judge")
    parts = Parts(folder)
    with parts.claimed(_identity(job, plan)):
        finished = parts.finished(plan.shards)
        missing = [shard for shard in plan.shards if shard not in finished]
        num_done = plan.num_rows - sum(shard.num_rows for shard in missing)
        on_progress(num_done, plan.num_rows)
        for shard in _judge(job, missing, folder=folder):
            num_done += shard.num_rows
            on_progress(num_done, plan.num_rows)
        counts = write_output(job.output, parts, plan.shards, has_verdicts=job.has_verdicts)
        parts.remove()
    return counts


def _identity(job: ModerationJob, plan: Plan) -> dict[str, Any]:  # Any: JSON values
    policy = hashlib.blake2b(job.policy.model_dump_json().encode(), digest_size=16).hexdigest()
    return {
        "version": _VERSION,
        "input": plan.digest,
        "guard": _guard_identity(job.guard),
        "policy": policy,
        "shard_rows": job.shard_rows,
        "verdicts": job.has_verdicts,
    }


def _guard_identity(name: str) -> str:
    """Return what tells a guard from others, its address or a digest of what its files are."""
    if name.startswith(("http://", "https://")):
        return name
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(find_checkpoint(name).iterdir()):
        if path.suffix == ".json":
            digest.update(path.read_bytes())
        elif path.suffix == ".safetensors":
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _judge(job: ModerationJob, shards: Sequence[Shard], *, folder: Path) -> Iterator[Shard]:
    """Yield each shard when it is finished."""
    if not shards:
        return
    workers = min(job.workers, len(shards))
    judging = Judging(
        source=job.source.absolute(),
        parts=folder.absolute(),
        guard=job.guard,
        policy=job.policy,
        threads=1,
        has_verdicts=job.has_verdicts,
    )
    has_joined = join_ray(job.address, cores_needed=workers)
    try:
        _quiet()
        done = ray.data.from_items(
            [shard._asdict() for shard in shards], override_num_blocks=min(len(shards), _MAX_BLOCKS)
        ).map_batches(
            _Worker,
            fn_constructor_args=(judging,),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=workers),  # Ray restarts workers that die and repeats their shards
        )
        for row in done.iter_rows():
            yield Shard(**row)
    except RayTaskError as error:
        raise _told(error) from error
    except RayError as error:
        raise WorkerError("Ray lost the workers; what is finished stays, run the same command again") from error
    finally:
        if has_joined:
            ray.shutdown()


class _Worker:
    """A `ShardJudge` as Ray Data calls it."""

    def __init__(self, judging: Judging) -> None:
        self._judge = ShardJudge(judging)

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        for values in zip(*(batch[name].tolist() for name in Shard._fields), strict=True):
            self._judge.judge(Shard(*values))
        return batch


def _quiet() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def _told(error: RayTaskError) -> StreamwardError:
    """Return what a worker raised."""
    if isinstance(error.cause, StreamwardError):
        return error.cause
    return WorkerError(
        f"a worker failed ({type(error.cause).__name__}); what is finished stays, Ray's logs say where it was"
    )
