"""A worker of a job: loads the guard once, then judges one shard after the other."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamward.distributed.parts import PartCounts, Parts
from streamward.distributed.source import Shard, open_source
from streamward.errors import InputError, StreamwardError
from streamward.moderation.rows import answer_json, judge_row
from streamward.policy import Policy
from streamward.schema import Action, Result

if TYPE_CHECKING:
    from streamward.moderation.moderator import Moderator


_MAX_TRIES = 3


class WorkerError(StreamwardError):
    """Workers cannot go on; what is finished stays."""

    code = "worker_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """The settings that a worker needs.

    Attributes:
        source: The file of rows, which every worker sees.
        parts: Folder of the finished shards, likewise.
        guard: As for `streamward.load`.
        threads: CPU threads of a worker. They are fixed, and rows are judged one by one, because the last digits of
            a probability may depend on both: an interrupted job is to end like one that was not.
        has_verdicts: Whether the verdict of every token is written.
    """

    source: Path
    parts: Path
    guard: str
    policy: Policy
    threads: int
    has_verdicts: bool


class ShardJudge:
    """Judges shards."""

    def __init__(self, judging: Judging, *, load: "Callable[[Judging], Moderator] | None" = None) -> None:
        """Load the guard.

        Args:
            judging: What is to be done.
            load: How the guard is loaded.
        """
        self._judging = judging
        self._source = open_source(judging.source)
        self._parts = Parts(judging.parts)
        self._guard = (load or _load)(judging)

    def judge(self, shard: Shard) -> None:
        """Judge a shard and write it; one that is finished is left as it is.

        Raises:
            WorkerError: As many workers as may have begun with it, and none has come back.
            InputError: The file cannot be read any more.
        """
        if self._parts.is_finished(shard):
            return
        if self._parts.begin(shard) > _MAX_TRIES:
            raise WorkerError(
                f"{_MAX_TRIES} workers died while judging rows {shard.first_row + 1} to"
                f" {shard.first_row + shard.num_rows}; what is finished stays"
            )
        lines, counts = [], PartCounts()
        for row in self._source.read(shard):
            answer = judge_row(self._guard, row)
            lines.append(json.dumps(answer_json(row, answer, has_verdicts=self._judging.has_verdicts)))
            counts = counts.plus(_counted(answer))
        self._parts.write(shard, lines, counts)

    def close(self) -> None:
        """Free the guard."""
        self._guard.close()


def _counted(answer: Result | StreamwardError) -> PartCounts:
    if isinstance(answer, StreamwardError):
        is_bad = isinstance(answer, InputError)
        return PartCounts(rows=1, bad=int(is_bad), failed=int(not is_bad))
    decision = answer.decision
    is_blocked = decision.error is None and decision.action in (Action.BLOCK, Action.REPLACE)
    return PartCounts(rows=1, blocked=int(is_blocked), failed=int(decision.error is not None))


def _load(judging: Judging) -> "Moderator":
    from streamward.engine.config import EngineConfig
    from streamward.loading import load

    return load(judging.guard, policy=judging.policy, engine=EngineConfig(threads=judging.threads), max_workers=1)
