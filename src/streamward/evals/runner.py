"""Runs guards over sets: cached, resumable, one row once."""

import json
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from streamward.errors import UpstreamError
from streamward.evals.cache import PredictionCache, row_key
from streamward.evals.environment import hardware, versions
from streamward.evals.guards import GuardUnderTest, identity_of
from streamward.evals.predictions import GuardRun, LabelledRow, Prediction, SetResult, Slices
from streamward.evals.sets import EvalSet

MAX_FAILURES = 100
"""Rows failed in succession after which a guard counts as gone: the rest is marked, not asked."""
_ALONE_ROWS = 32
_ROW_WORK = 80  # characters that a row costs besides its text: template and bookkeeping
_ALONE_FILE = "alone.json"

logger = logging.getLogger(__name__)
OnProgress = Callable[[str, int], object]
"""Called with the name of a set and the work done since the last call, in the unit of `work`."""


class _Cost(NamedTuple):
    num_rows: int
    num_errors: int
    num_tokens: int
    wall_s: float


def work(row: LabelledRow) -> int:
    """Return what a row costs, about: its characters and a little more."""
    return len(row.text) + len(row.prompt or "") + _ROW_WORK


def run_guard(
    guard: GuardUnderTest,
    sets: Sequence[EvalSet],
    *,
    cache: Path,
    command: str,
    suite: str,
    on_progress: OnProgress = lambda name, work: None,
) -> GuardRun:
    """Judge sets with one guard; what is in the cache is not judged again.

    Args:
        guard: Under test.
        sets: What to judge.
        cache: Folder of the predictions, shared by guards and runs.
        command: As typed; kept in the run.
        suite: Name of the suite; kept in the run.
        on_progress: Told about rows done, those from the cache too.

    Raises:
        InputError: A file in the cache is damaged.
    """
    identity = identity_of(guard)
    folder = cache / identity[:16]
    folder.mkdir(parents=True, exist_ok=True)
    judge = _Judge(guard, folder, on_progress)
    results = tuple(judge.judge_set(each) for each in sets)
    cost = _total(results)
    return GuardRun(
        guard={**guard.describe(), "identity": identity},
        sets=results,
        versions=versions(),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=hardware(),
        cost={
            **cost._asdict(),
            "tokens_per_s": cost.num_tokens / cost.wall_s if cost.num_tokens and cost.wall_s else None,
            "rows_per_s": (cost.num_rows - cost.num_errors) / cost.wall_s if cost.wall_s else None,
            **({} if judge.is_gone else _alone(guard, sets, folder)),
        },
        suite=suite,
    )


class _Judge:
    """One guard and its folder of predictions."""

    def __init__(self, guard: GuardUnderTest, folder: Path, on_progress: OnProgress) -> None:
        self._guard = guard
        self._folder = folder
        self._on_progress = on_progress
        self._num_failures = 0  # failures in succession

    @property
    def is_gone(self) -> bool:
        """True if the guard failed too often in succession."""
        return self._num_failures >= MAX_FAILURES

    def judge_set(self, eval_set: EvalSet) -> SetResult:
        """Judge the rows of a set that are not in the cache yet."""
        name = ".".join(
            [eval_set.name, eval_set.side.value]
            + ([] if eval_set.perturbation is None else [eval_set.perturbation])
            + ["tokens"] * eval_set.keeps_tokens
        )
        keys = [row_key(row) for row in eval_set.rows]
        with PredictionCache(self._folder / f"{name}.jsonl") as cache:
            found = cache.done(eval_set.rows)
            self._on_progress(
                eval_set.name, sum(work(r) for r, key in zip(eval_set.rows, keys, strict=True) if key in found)
            )
            todo = {key: row for key, row in zip(keys, eval_set.rows, strict=True) if key not in found}
            for batch in _batches(todo, self._guard.batch_rows):
                if self.is_gone:
                    judged = {key: Prediction(row.id, error=UpstreamError.code) for key, row in batch.items()}
                else:
                    judged = self._judge_batch(batch, keeps_tokens=eval_set.keeps_tokens)
                    cache.add(judged)
                found.update(judged)
                self._on_progress(eval_set.name, sum(work(row) for row in batch.values()))
        return _result(eval_set, keys, found)

    def _judge_batch(self, batch: Mapping[str, LabelledRow], *, keeps_tokens: bool) -> dict[str, Prediction]:
        rows = [_unlabelled(row) for row in batch.values()]
        predictions = self._guard.judge(rows, keeps_tokens=keeps_tokens)
        assert len(predictions) == len(rows), "a guard gives one prediction per row"
        for prediction in predictions:
            self._num_failures = 0 if prediction.error is None else self._num_failures + 1
        if self.is_gone:
            logger.warning("guard failed too often in succession", extra={"num_failures": self._num_failures})
        return dict(zip(batch, predictions, strict=True))


def _batches(rows: Mapping[str, LabelledRow], size: int) -> Iterator[dict[str, LabelledRow]]:
    """Yield rows of like length together, the longest first: the time left is then rather over- than underestimated."""
    keys = sorted(rows, key=lambda key: (-work(rows[key]), key))
    for start in range(0, len(keys), size):
        yield {key: rows[key] for key in keys[start : start + size]}


def _result(eval_set: EvalSet, keys: Sequence[str], found: Mapping[str, Prediction]) -> SetResult:
    """Give every row the prediction of its text; the time of a repeated text counts once."""
    predictions, paid = [], set()
    for row, key in zip(eval_set.rows, keys, strict=True):
        cost_ms = 0.0 if key in paid else found[key].cost_ms
        paid.add(key)
        predictions.append(replace(found[key], row_id=row.id, cost_ms=cost_ms))
    return SetResult(
        eval_set.name,
        eval_set.side,
        eval_set.rows,
        tuple(predictions),
        perturbation=eval_set.perturbation,
        set_sha256=eval_set.sha256(),
        wall_s=sum(each.cost_ms for each in predictions) / 1e3,
        sampled_from=eval_set.sampled_from,
    )


def _total(results: Sequence[SetResult]) -> _Cost:
    predictions = [each for result in results for each in result.predictions]
    return _Cost(
        num_rows=len(predictions),
        num_errors=sum(each.error is not None for each in predictions),
        num_tokens=sum(each.num_tokens or 0 for each in predictions if each.cost_ms),
        wall_s=sum(result.wall_s for result in results),
    )


def _alone(guard: GuardUnderTest, sets: Sequence[EvalSet], folder: Path) -> dict[str, Any]:  # Any: JSON values
    """Measure a fixed sample of rows one by one, as a user would wait for them; once a guard and sample."""
    plain = [each for each in sets if each.perturbation is None]
    rows = [row for each in plain for row in each.sample(max(1, _ALONE_ROWS // len(plain))).rows][:_ALONE_ROWS]
    name = row_key(replace(rows[0], text="".join(map(row_key, rows)))) if rows else ""
    path = folder / _ALONE_FILE
    known: dict[str, dict[str, Any]] = {}
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # the file was cut off by a kill; measure again
            known = {}
    if rows and name not in known:
        answers = [each for row in rows for each in guard.judge([_unlabelled(row)], keeps_tokens=False)]
        times = [each.latency_ms for each in answers if each.error is None]
        known[name] = _percentiles([each for each in times if each is not None])
        path.write_text(json.dumps(known), encoding="utf-8")
    return known.get(name, {})


def _unlabelled(row: LabelledRow) -> LabelledRow:
    """Return what a guard is shown of a row."""
    return replace(row, label=None, categories=(), refusal=None, spans=None, unsafe_start=None, slices=Slices())


def _percentiles(times_ms: Sequence[float]) -> dict[str, Any]:  # Any: JSON values
    if len(times_ms) < 2:
        return {}
    cuts = statistics.quantiles(times_ms, n=20, method="inclusive")
    return {"alone_ms_p50": cuts[9], "alone_ms_p95": cuts[18], "alone_rows": len(times_ms)}


def is_failed(run: GuardRun) -> bool:
    """Return True if a guard judged no row at all."""
    return bool(run.cost["num_errors"] == run.cost["num_rows"])


def failure_codes(run: GuardRun) -> dict[str, int]:
    """Count the rows that could not be judged, by error code."""
    counts: dict[str, int] = {}
    for result in run.sets:
        for prediction in result.predictions:
            if prediction.error is not None:
                counts[prediction.error] = counts.get(prediction.error, 0) + 1
    return counts
