"""Many threads feed one engine: few steps, the verdicts of one pass, and no thread left waiting."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from streamward.engine.outputs import StepOutput
from streamward.errors import ContextLengthError, GuardFailedError, OverloadedError, StreamClosedError
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.health import GuardHealth
from streamward.schema import Side
from tests.engine.harness import Opinion, assert_same, full_pass, make_engine, opinions_of, random_guard, random_ids

TIMEOUT_S = 60


class HeldEngine:
    """An engine whose first step, of a stream of its own, waits until so many calls are queued behind it."""

    def __init__(self, *, num_queued: int, **limits: int) -> None:
        self.engine = make_engine(random_guard(), **limits)
        self.driver = EngineWorker(self.engine)
        self.batches: list[list[StepOutput]] = []
        self.fails = False
        self._num_queued = num_queued
        self._step = self.engine.step
        self._is_stepping = threading.Event()
        self._is_released = threading.Event()
        self.engine.step = self._held_step  # type: ignore[method-assign]

    def hold(self) -> None:
        """Start the first step."""
        first = self.driver.open()
        in_threads([lambda: self.driver.score(first, [1], head=None)])
        assert self._is_stepping.wait(TIMEOUT_S)

    def release(self) -> None:
        """End the first step whatever is queued: a thread that steps for ever keeps the process."""
        self._is_released.set()

    def _held_step(self) -> list[StepOutput]:
        if not self._is_stepping.is_set():
            self._is_stepping.set()
            while len(self.driver._queue) < self._num_queued and not self._is_released.wait(0.001):
                pass
            return self._step()
        if self.fails:
            raise MemoryError("no memory")
        self.batches.append(self._step())
        return self.batches[-1]


def in_threads(calls: list[Callable[[], list[StepOutput]]]) -> list[Future[list[StepOutput]]]:
    pool = ThreadPoolExecutor(len(calls))
    futures = [pool.submit(call) for call in calls]
    pool.shutdown(wait=False)
    return futures


def test_what_arrives_during_a_step_is_read_together_in_the_next() -> None:
    held = HeldEngine(num_queued=40)
    streams = [held.driver.open() for _ in range(40)]
    held.hold()
    reads = in_threads([partial(held.driver.score, stream, [1, 2], head=Side.RESPONSE) for stream in streams])
    assert [len(read.result(TIMEOUT_S)[0].risk_probs) for read in reads] == [2] * 40
    assert len(held.batches) == 1


def test_a_short_append_is_ready_before_a_long_text_that_came_first() -> None:
    held = HeldEngine(num_queued=2, max_batch_tokens=8)
    long, short = held.driver.open(), held.driver.open()
    held.hold()
    reads = in_threads(
        [
            partial(held.driver.score, long, random_ids(100, seed=1), head=None),
            partial(held.driver.score, short, [3], head=Side.RESPONSE),
        ]
    )
    assert reads[1].result(TIMEOUT_S)[0].stream_id == short
    reads[0].result(TIMEOUT_S)
    assert [output.stream_id for output in held.batches[0]] == [short]
    assert len(held.batches) > 10


def test_threads_with_streams_of_their_own_get_the_verdicts_of_one_pass() -> None:
    guard = random_guard()
    driver = EngineWorker(make_engine(guard, max_batch_tokens=24))

    def judge(seed: int) -> list[StepOutput]:
        rng, ids, outputs = random.Random(seed), random_ids(70, seed=seed), []
        with driver.temporary_stream() as stream:
            start = 0
            while start < len(ids):
                count = rng.choice([1, 2, 5, 30])
                driver.score(stream, ids[start : start + count + 3], head=None)
                driver.truncate(stream, start)
                outputs += driver.score(stream, ids[start : start + count], head=Side.RESPONSE)
                start += count
        return outputs

    for seed, outputs in enumerate(in_threads([partial(judge, seed) for seed in range(12)])):
        found: dict[int, Opinion] = {position: each for _, position, each in opinions_of(outputs.result(TIMEOUT_S))}
        assert_same(found, full_pass(guard, random_ids(70, seed=seed), [Side.RESPONSE] * 70))
    assert driver.engine.num_streams == 0


def test_closing_a_stream_wakes_who_waits_for_it_and_nobody_else() -> None:
    held = HeldEngine(num_queued=2, max_batch_tokens=8)
    closed, other = held.driver.open(), held.driver.open()
    held.hold()
    reads = in_threads(
        [
            partial(held.driver.score, closed, random_ids(100, seed=1), head=Side.RESPONSE),
            partial(held.driver.score, other, random_ids(20, seed=2), head=Side.RESPONSE),
        ]
    )
    held.driver.close_stream(closed)
    assert isinstance(reads[0].exception(TIMEOUT_S), StreamClosedError)
    assert sum(len(output.risk_probs) for output in reads[1].result(TIMEOUT_S)) == 20


def test_a_failing_step_reaches_every_waiter_and_leaves_streams_as_they_were() -> None:
    held = HeldEngine(num_queued=3)
    streams = [held.driver.open() for _ in range(3)]
    held.fails = True
    held.hold()
    reads = in_threads([partial(held.driver.score, stream, [5, 6], head=Side.RESPONSE) for stream in streams])
    assert all(isinstance(read.exception(TIMEOUT_S), GuardFailedError) for read in reads)
    held.fails = False
    assert [held.engine.length(stream) for stream in streams] == [0, 0, 0]
    (output,) = held.driver.score(streams[0], [5, 6], head=Side.RESPONSE)
    assert output.position == 0


def test_a_read_that_cannot_be_queued_leaves_the_others_alone() -> None:
    held = HeldEngine(num_queued=2)
    streams = [held.driver.open() for _ in range(2)]
    held.hold()
    reads = in_threads(
        [
            partial(held.driver.score, streams[0], [1] * 1000, head=Side.RESPONSE),
            partial(held.driver.score, streams[1], [1] * 20, head=Side.RESPONSE),
        ]
    )
    assert isinstance(reads[0].exception(TIMEOUT_S), ContextLengthError)
    assert len(reads[1].result(TIMEOUT_S)[0].risk_probs) == 20
    assert held.engine.length(streams[0]) == 0


def test_too_many_streams_are_refused_while_steps_run() -> None:
    held = HeldEngine(num_queued=1, max_streams=1)
    held.hold()
    with pytest.raises(OverloadedError, match="max_streams"):
        held.driver.open()
    held.release()


def test_nothing_runs_while_nothing_waits() -> None:
    driver = EngineWorker(make_engine(random_guard()))
    with driver.temporary_stream() as stream:
        driver.score(stream, [1, 2, 3], head=None)
        poll = threading.Event()
        while driver._is_running:
            poll.wait(0.001)
    assert driver.health() == GuardHealth()


@pytest.mark.parametrize("ids", [[], ()])
def test_no_tokens_give_no_outputs(ids: list[int]) -> None:
    driver = EngineWorker(make_engine(random_guard()))
    with driver.temporary_stream() as stream:
        assert driver.score(stream, ids, head=Side.RESPONSE) == []
