"""Whatever is raised in the thread that steps: every call ends, later calls work, and the verdicts stay right."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import streamward.moderation.coroutines as coroutines_module
import streamward.moderation.engine_worker as driver_module
from streamward.engine.outputs import StepOutput
from streamward.errors import GuardFailedError
from streamward.guard_call import GuardCall
from streamward.moderation.engine_worker import EngineWorker
from streamward.schema import Side
from tests.engine.harness import Opinion, assert_same, full_pass, make_engine, opinions_of, random_guard, random_ids
from tests.moderation.test_driver import TIMEOUT_S, in_threads

IDS = random_ids(30, seed=3)
GUARD = random_guard()
ENGINE_STEPS = ["step", "extend", "length", "num_queued", "num_pending", "truncate", "close", "open", "recover"]
DRIVER_STEPS = ["_turn", "_tidy", "_begin", "_step", "_queue_part", "_note_progress", "_end", "_survive", "_fail_all"]
ERRORS = [MemoryError, RuntimeError, KeyError, TimeoutError, KeyboardInterrupt, SystemExit, GeneratorExit]


class Saboteur:
    """Raises at chosen calls of a method, before it runs or after, in the thread that steps only."""

    def __init__(self, target: object, name: str, *, at: set[int], error: type[BaseException], is_after: bool) -> None:
        self.num_calls = 0
        self._run = getattr(target, name)
        self._at = at
        self._error = error
        self._is_after = is_after
        setattr(target, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # Any: as the method has it
        if threading.current_thread().name != "streamward-engine":
            return self._run(*args, **kwargs)
        self.num_calls += 1
        is_due = self.num_calls in self._at
        if is_due and not self._is_after:
            raise self._error("sabotage")
        result = self._run(*args, **kwargs)
        if is_due:
            raise self._error("sabotage")
        return result


@contextmanager
def impatience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver_module, "_RETRY_S", 0.01)
        patch.setattr(coroutines_module, "_LOOK_S", 0.05)
        yield


@contextmanager
def driven(**limits: int) -> Iterator[EngineWorker]:
    driver = EngineWorker(make_engine(GUARD, max_batch_tokens=8, **limits))
    yield driver
    driver.close()


def judge(driver: EngineWorker, *, closes: bool = True) -> list[StepOutput]:
    stream = driver.open()
    try:
        driver.score(stream, IDS[:10], head=None)
        driver.truncate(stream, 5)
        return driver.score_segments(stream, [(IDS[5:20], Side.RESPONSE), (IDS[20:], None)])
    finally:
        if closes:
            driver.close_stream(stream)


def assert_right(outputs: list[StepOutput]) -> None:
    expected = full_pass(GUARD, IDS, [None] * 5 + [Side.RESPONSE] * 15 + [None] * 10)
    found: dict[int, Opinion] = {position: each for _, position, each in opinions_of(outputs)}
    assert_same(found, expected)


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    place=st.sampled_from([("engine", name) for name in ENGINE_STEPS] + [("driver", name) for name in DRIVER_STEPS]),
    at=st.sets(st.integers(1, 12), min_size=1, max_size=4),
    error=st.sampled_from(ERRORS),
    is_after=st.booleans(),
)
def test_no_call_waits_for_ever_and_none_gets_a_wrong_verdict(
    place: tuple[str, str], at: set[int], error: type[BaseException], is_after: bool
) -> None:
    with impatience(), driven() as driver:
        target = driver.engine if place[0] == "engine" else driver
        Saboteur(target, place[1], at=at, error=error, is_after=is_after)
        for _ in range(4):
            for read in in_threads([partial(judge, driver)] * 3):
                failure = read.exception(TIMEOUT_S)
                assert not isinstance(failure, KeyboardInterrupt | SystemExit | GeneratorExit)
                if failure is None:
                    assert_right(read.result())
        assert_right(eventually(partial(judge, driver)))
        assert eventually(lambda: driver.engine.num_streams, until=0) == 0


def eventually(call: Callable[[], Any], *, until: object = None) -> Any:
    """Return what a call gives once it does not fail any more, and gives what is wanted."""
    poll, problem = threading.Event(), None
    for _ in range(500):
        try:
            result = call()
            if until is None or result == until:
                return result
        except (GuardFailedError, RuntimeError, MemoryError, KeyError, TimeoutError) as error:
            problem = error
        poll.wait(0.01)
    raise AssertionError("it never worked again") from problem


@pytest.mark.parametrize("name", ["step", "recover"])
def test_an_engine_that_keeps_failing_is_refused_at_once_and_says_so(name: str) -> None:
    with driven() as driver:
        for step in {"step", name}:
            Saboteur(driver.engine, step, at=set(range(1, 10_000)), error=MemoryError, is_after=False)
        for _ in range(3):
            with suppress(GuardFailedError):
                judge(driver)
        assert driver.health().failure is not None
        with pytest.raises(GuardFailedError, match="several times"):
            judge(driver)


def test_a_refused_engine_is_tried_again_and_serves_when_it_works() -> None:
    with impatience(), driven() as driver:
        Saboteur(driver.engine, "step", at=set(range(1, 8)), error=MemoryError, is_after=False)
        for _ in range(3):
            with suppress(GuardFailedError):
                judge(driver)
        assert_right(eventually(partial(judge, driver)))
        assert driver.health().failure is None


def test_a_refused_engine_is_tried_again_though_as_many_streams_are_open_as_may_be() -> None:
    with impatience(), driven(max_streams=2) as driver:
        idle, stream = driver.open(), driver.open()
        Saboteur(driver.engine, "step", at=set(range(1, 4)), error=MemoryError, is_after=False)
        for _ in range(3):
            with suppress(GuardFailedError):
                driver.score(stream, IDS[:5], head=None)
        eventually(lambda: driver.health().failure is None, until=True)
        driver.score(idle, IDS[:5], head=None)
        driver.score(stream, IDS[:5], head=None)
        assert_right(driver.score(stream, IDS[5:20], head=Side.RESPONSE))


def test_a_stream_opened_in_the_place_of_one_closed_meanwhile_fails_no_other_read() -> None:
    with driven(max_streams=3) as driver:
        first, second, other = driver.open(), driver.open(), driver.open()
        is_stepping, may_go_on, step = threading.Event(), threading.Event(), driver.engine.step

        def held() -> list[StepOutput]:
            is_stepping.set()
            assert may_go_on.wait(TIMEOUT_S)
            return step()

        driver.engine.step = held  # type: ignore[method-assign]
        (read,) = in_threads([lambda: driver.score(other, IDS, head=None)])
        assert is_stepping.wait(TIMEOUT_S)
        driver.close_stream(first)
        driver.open()
        close = driver.engine.close

        def close_and_let_another_in(stream_id: int) -> None:
            close(stream_id)
            driver.engine.close = close  # type: ignore[method-assign]
            driver.close_stream(second)
            driver.open()

        driver.engine.close = close_and_let_another_in  # type: ignore[method-assign]
        may_go_on.set()
        read.result(TIMEOUT_S)
        assert driver.health().failure is None


def test_a_failure_leaves_open_streams_as_they_were() -> None:
    with driven() as driver:
        stream = driver.open()
        driver.score(stream, IDS[:5], head=None)
        Saboteur(driver.engine, "step", at={1}, error=MemoryError, is_after=True)
        with pytest.raises(GuardFailedError):
            driver.score(stream, IDS[5:20], head=Side.RESPONSE)
        assert_right([*driver.score(stream, IDS[5:20], head=Side.RESPONSE)])


def test_a_cancelled_read_ends_at_once_and_its_tokens_are_dropped() -> None:
    with driven() as driver:
        stream, other = driver.open(), driver.open()
        is_stepping, may_go_on, step = threading.Event(), threading.Event(), driver.engine.step

        def held() -> list[StepOutput]:
            is_stepping.set()
            assert may_go_on.wait(TIMEOUT_S)
            return step()

        driver.engine.step = held  # type: ignore[method-assign]
        call = GuardCall()
        (read,) = in_threads([lambda: call.make(lambda: driver.score(stream, IDS, head=Side.RESPONSE))])
        assert is_stepping.wait(TIMEOUT_S)
        call.cancel()
        assert type(read.exception(TIMEOUT_S)).__name__ == "CallCancelledError"  # though the step still runs
        may_go_on.set()
        driver.score(other, IDS, head=None)
        assert driver.engine.length(stream) == 0
        assert driver.engine.num_queued_tokens == 0
        driver.score(stream, IDS[:5], head=None)
        assert_right(driver.score(stream, IDS[5:20], head=Side.RESPONSE))
