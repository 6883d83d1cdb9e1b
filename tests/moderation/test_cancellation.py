"""Work that nobody waits for ends at the next step, and leaves everything else alone."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from streamward.engine.outputs import StepOutput
from streamward.errors import CallCancelledError, StreamClosedError
from streamward.moderation.moderator import Moderator
from streamward.moderation.waiting import WorkerScore
from streamward.policy import Policy
from tests.moderation.guards import stream_guard

TIMEOUT_S = 30
LONG = "The cat sat on the mat. " * 4000
SHORT = "The cat sat on the mat."


class Steps:
    """Counts an engine's steps, and can hold them back one by one."""

    def __init__(self, moderator: Moderator) -> None:
        self.engine = moderator._guard.engine  # type: ignore[attr-defined]  # it is a Stream guard
        self.num_made = 0
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._step = self.engine.step
        self.engine.step = self._held

    def _held(self) -> list[StepOutput]:
        self.begun.set()
        assert self.gate.wait(TIMEOUT_S)
        self.num_made += 1
        outputs: list[StepOutput] = self._step()
        return outputs


@pytest.fixture
def moderator() -> Iterator[Moderator]:
    with Moderator(stream_guard(max_batch_tokens=64), policy=Policy.load("strict"), max_workers=2) as opened:
        yield opened


@pytest.fixture
def steps(moderator: Moderator) -> Steps:
    return Steps(moderator)


async def begun(steps: Steps, *, num_steps: int = 1) -> None:
    while steps.num_made < num_steps:
        await asyncio.sleep(0.001)


async def idle(steps: Steps) -> None:
    while steps.engine.num_queued_tokens or steps.engine.num_streams:
        await asyncio.sleep(0.001)


async def cancelled_after_a_step(steps: Steps, call: Awaitable[Any]) -> int:
    """Cancel a call under way; return how many steps were made afterwards until nothing was left."""
    task = asyncio.ensure_future(call)
    await begun(steps)
    task.cancel()
    num_made = steps.num_made
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(TIMEOUT_S):
        await idle(steps)
    return steps.num_made - num_made


@pytest.mark.parametrize("side", ["prompt", "response"])
def test_a_cancelled_text_costs_a_step_or_two_more_and_frees_its_thread(
    moderator: Moderator, steps: Steps, side: str
) -> None:
    async def used() -> None:
        for _ in range(3):  # more than there are threads
            steps.num_made = 0
            asked = {"prompt": LONG} if side == "prompt" else {"response": LONG}
            assert await cancelled_after_a_step(steps, moderator.amoderate(**asked)) <= 2  # type: ignore[arg-type]  # texts
        assert (await moderator.amoderate(prompt=SHORT)).prompt is not None

    asyncio.run(used())


def test_a_timeout_ends_the_work_too(moderator: Moderator, steps: Steps) -> None:
    async def used() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await moderator.amoderate(response=LONG)
        async with asyncio.timeout(TIMEOUT_S):
            await idle(steps)

    asyncio.run(used())


def test_a_cancelled_opening_ends_the_work(moderator: Moderator, steps: Steps) -> None:
    assert asyncio.run(cancelled_after_a_step(steps, moderator.astream(prompt=LONG).__aenter__())) <= 2


@pytest.mark.parametrize("name", ["feed", "feed_reasoning", "finish"])
def test_a_cancelled_piece_leaves_a_stream_that_goes_on_where_it_was(
    moderator: Moderator, steps: Steps, name: str
) -> None:
    whole = moderator.moderate(response=SHORT * 40)

    async def used() -> None:
        async with moderator.astream() as stream, moderator.astream() as other:
            steps.num_made = 0
            if name == "finish":
                steps.begun.clear()
                steps.gate.clear()
                feeding = asyncio.ensure_future(stream.feed(SHORT * 40))
                await asyncio.to_thread(steps.begun.wait, TIMEOUT_S)
                feeding.cancel()
                await asyncio.wait([feeding])
                assert stream.took_piece
                steps.gate.set()
                calling = asyncio.ensure_future(stream.finish())
                calling.cancel()
            else:
                calling = asyncio.ensure_future(getattr(stream, name)(SHORT * 40))
                await begun(steps)
                calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            assert await other.feed(SHORT)
            if name == "feed_reasoning":
                assert await stream.feed_reasoning("")
                return
            result = await stream.finish()
            assert result.response is not None and whole.response is not None
            assert result.response.risk_level == whole.response.risk_level
            assert len(result.response.verdicts) == len(whole.response.verdicts)

    asyncio.run(used())


def test_a_piece_that_was_cancelled_before_it_had_a_thread_was_not_taken_in(moderator: Moderator) -> None:
    async def used() -> None:
        async with moderator.astream() as stream:
            gate = threading.Event()
            held = [moderator._loaded.pool.submit(lambda: gate.wait(TIMEOUT_S)) for _ in range(2)]
            feeding = asyncio.ensure_future(stream.feed(LONG))  # a short piece needs none
            await asyncio.sleep(0)
            feeding.cancel()
            await asyncio.wait([feeding])
            gate.set()
            assert all(each.result() for each in held)
            assert not stream.took_piece
            assert (await stream.finish()).response.verdicts == ()  # type: ignore[union-attr]  # it was asked for
            assert not stream.took_piece

    asyncio.run(used())


def test_leaving_a_stream_does_not_wait_for_a_piece_that_is_being_judged(moderator: Moderator, steps: Steps) -> None:
    async def used() -> None:
        async with moderator.astream() as stream:
            steps.begun.clear()
            steps.gate.clear()
            feeding = asyncio.ensure_future(stream.feed(LONG))
            await asyncio.to_thread(steps.begun.wait, TIMEOUT_S)
            assert stream.releasable_chars == 0
        assert not steps.gate.is_set()  # the step goes on, and the block was left
        with pytest.raises(StreamClosedError):
            await feeding
        steps.gate.set()

    asyncio.run(used())


def test_a_stream_is_cancelled_from_another_thread(moderator: Moderator, steps: Steps) -> None:
    with moderator.stream() as stream:
        errors: list[BaseException] = []
        feeding = threading.Thread(target=lambda: errors.append(raised(lambda: stream.feed(LONG))))
        steps.begun.clear()
        feeding.start()
        assert steps.begun.wait(TIMEOUT_S)
        stream.cancel()
        feeding.join(TIMEOUT_S)
        assert [type(error) for error in errors] == [CallCancelledError]
        with pytest.raises(CallCancelledError):
            stream.feed("")
    assert moderator.moderate(prompt=SHORT).prompt is not None
    assert steps.engine.num_streams == 0


def test_an_interrupt_ends_the_work_of_the_call_it_hits(
    moderator: Moderator, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkerScore, "exception", interrupted)  # where the thread waits
        with pytest.raises(KeyboardInterrupt):
            moderator.moderate(response=LONG)
    assert moderator.moderate(prompt=SHORT).prompt is not None
    assert (steps.engine.num_streams, steps.engine.num_queued_tokens) == (0, 0)


def test_what_was_judged_before_a_cancellation_can_still_be_told(moderator: Moderator) -> None:
    async def used() -> None:
        async with moderator.astream(prompt=SHORT) as stream:
            await stream.feed(SHORT)
            feeding = asyncio.ensure_future(stream.feed(LONG))
            await asyncio.sleep(0)
            feeding.cancel()
            await asyncio.wait([feeding])
            found = stream.so_far()
            assert found.response is not None and found.prompt is not None
            assert len(found.response.verdicts) >= 20

    asyncio.run(used())


def raised(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # whatever it is, it is looked at
        call()
    return caught.value


def test_closing_ends_calls_in_flight_and_frees_the_model_the_cache_and_the_threads() -> None:
    before = set(threading.enumerate())
    guard = stream_guard()
    moderator = Moderator(guard, policy=Policy.load("strict"))
    view = moderator.with_policy(Policy.load("loose")).with_owner("a")
    steps = Steps(moderator)
    stream = moderator.stream()
    steps.begun.clear()
    errors: list[BaseException] = []
    calls = [
        lambda: stream.feed(LONG),
        lambda: view.moderate(prompt=LONG),
        lambda: moderator.moderate_batch([{"prompt": LONG}]),
    ]
    threads = [threading.Thread(target=lambda call=call: errors.append(raised(call))) for call in calls]
    for thread in threads:
        thread.start()
    assert steps.begun.wait(TIMEOUT_S)
    watched = [weakref.ref(each) for each in (guard.engine, guard.engine.runner, guard.engine._cache)]
    view.close()
    moderator.close()
    moderator.close()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert [type(error) for error in errors] == [StreamClosedError] * 3
    for new in set(threading.enumerate()) - before:
        new.join(TIMEOUT_S)
    assert not set(threading.enumerate()) - before
    del steps
    gc.collect()
    assert [each() for each in watched] == [None] * 3
    for call in (lambda: moderator.moderate(prompt="x"), lambda: view.stream(), lambda: stream.feed("x")):
        with pytest.raises(StreamClosedError):
            call()
    del guard
