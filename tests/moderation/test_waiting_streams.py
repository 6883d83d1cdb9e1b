"""Hundreds of streams wait for an engine at once: without threads, and without leaving work behind."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import numpy as np
import pytest

from streamward.engine.model_runner import HeadProbs, ModelInput, ModelOutput
from streamward.errors import GuardFailedError, StreamClosedError
from streamward.model.guard_config import PUBLISHED_RESPONSE_CATEGORIES
from streamward.moderation.async_stream import AsyncGuardStream
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Event
from tests.moderation.guards import stream_guard

TIMEOUT_S = 120
MAX_WORKERS = 2
TEXT = "The cat sat on the mat. "
LONG = TEXT * 20  # more than an event loop judges itself
Feeding = Callable[[AsyncGuardStream], Awaitable[list[Event]]]


class HeldRunner:
    """Stands for a slow model: its forward passes end when they may. It finds everything safe."""

    def __init__(self, moderator: Moderator) -> None:
        self.engine = moderator._guard.engine  # type: ignore[attr-defined]  # it is a Stream guard
        self.worker = moderator._guard._scorer  # type: ignore[attr-defined]  # likewise
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.num_passes = 0
        self.engine.runner.run = self.run

    def hold(self) -> None:
        """Stop at the next pass."""
        self.gate.clear()
        self.begun.clear()

    def run(self, batch: ModelInput) -> ModelOutput:
        """Wait, then answer."""
        self.begun.set()
        assert self.gate.wait(TIMEOUT_S)
        if self.error is not None:
            raise self.error
        self.num_passes += 1
        return ModelOutput({side: _probs(len(rows)) for side, rows in batch.head_rows.items()}, {})

    async def all_wait(self, count: int) -> None:
        """Wait until so many reads wait, of which one step holds some."""
        async with asyncio.timeout(TIMEOUT_S):
            while not (self.begun.is_set() and len(self.worker._waiting) == count):
                await asyncio.sleep(0.001)

    async def nothing_left(self) -> None:
        """Wait until the engine has no token to read, and nobody waits."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.engine.num_queued_tokens or self.worker._waiting or self.worker._is_running:
                await asyncio.sleep(0.001)


@pytest.fixture
def moderator() -> Iterator[Moderator]:
    guard = stream_guard(max_batch_tokens=256, max_queued_tokens=4096)
    with Moderator(guard, policy=Policy.load("strict"), max_workers=MAX_WORKERS) as opened:
        yield opened


@pytest.fixture
def held(moderator: Moderator) -> Iterator[HeldRunner]:
    runner = HeldRunner(moderator)
    yield runner
    runner.gate.set()


def _probs(num_tokens: int) -> HeadProbs:
    risk = np.tile(np.array([0.9, 0.05, 0.05], np.float32), (num_tokens, 1))
    return HeadProbs(risk, np.full((num_tokens, len(PUBLISHED_RESPONSE_CATEGORIES)), 0.1, np.float32))


async def opened(stack: AsyncExitStack, moderator: Moderator, count: int) -> list[AsyncGuardStream]:
    streams = [moderator.with_owner(str(index % 7)).astream() for index in range(count)]
    return list(await asyncio.gather(*map(stack.enter_async_context, streams)))


def feeding_all(streams: list[AsyncGuardStream], feed: Feeding) -> list["asyncio.Future[list[Event]]"]:
    return [asyncio.ensure_future(feed(stream)) for stream in streams]


FEEDS = pytest.mark.parametrize(
    "feed",
    [lambda stream: stream.feed(TEXT), lambda stream: stream.feed(LONG), lambda stream: stream.feed_reasoning(TEXT)],
    ids=["short", "long", "reasoning"],
)


@FEEDS
def test_threads_do_not_grow_with_the_streams_that_wait(moderator: Moderator, held: HeldRunner, feed: Feeding) -> None:
    async def threads_while_waiting(count: int) -> int:
        async with AsyncExitStack() as stack:
            streams = await opened(stack, moderator, count)
            held.hold()
            feeding = feeding_all(streams, feed)
            await held.all_wait(count)
            num_threads = threading.active_count()
            assert not any(each.done() for each in feeding)
            held.gate.set()
            assert all(await asyncio.gather(*feeding[:7]))
            for each in feeding:
                each.cancel()
            await asyncio.wait(feeding)
            await held.nothing_left()
            return num_threads

    async def used() -> None:
        before = threading.active_count()
        assert await threads_while_waiting(20) <= before + MAX_WORKERS + 1
        assert await threads_while_waiting(500) <= before + MAX_WORKERS + 1  # and the engine's own

    asyncio.run(used())


def test_threads_do_not_grow_with_the_texts_and_openings_that_wait(moderator: Moderator, held: HeldRunner) -> None:
    async def used() -> None:
        before = threading.active_count()
        held.hold()
        texts = [asyncio.ensure_future(moderator.amoderate(prompt=TEXT)) for _ in range(100)]
        streams = [moderator.astream(prompt=TEXT) for _ in range(100)]
        openings = [asyncio.ensure_future(stream.__aenter__()) for stream in streams]
        await held.all_wait(200)
        assert threading.active_count() <= before + MAX_WORKERS + 1
        held.gate.set()
        assert all(result.prompt is not None for result in await asyncio.gather(*texts))
        for stream in await asyncio.gather(*openings):
            await stream.__aexit__(None, None, None)
        await held.nothing_left()
        assert held.engine.num_streams == 0

    asyncio.run(used())


@FEEDS
def test_a_cancelled_feed_leaves_no_work_behind(moderator: Moderator, held: HeldRunner, feed: Feeding) -> None:
    async def used() -> None:
        async with AsyncExitStack() as stack:
            streams = await opened(stack, moderator, 60)
            held.hold()
            feeding = feeding_all(streams, feed)
            await held.all_wait(60)
            for each in feeding:
                each.cancel()
            await asyncio.wait(feeding)
            assert not held.worker._waiting
            num_passes = held.num_passes
            held.gate.set()
            await held.nothing_left()
            assert held.num_passes == num_passes + 1  # the one that was under way
            assert all(stream.took_piece for stream in streams)
            assert all([await stream.feed("") or await stream.feed_reasoning("") for stream in streams[:1]])

    asyncio.run(used())


def test_a_feed_cancelled_before_a_thread_went_on_with_it_lets_go_of_its_stream(
    moderator: Moderator, held: HeldRunner
) -> None:
    async def used() -> None:
        async with moderator.astream() as stream:
            held.hold()
            feeding = asyncio.ensure_future(stream.feed(LONG))
            await held.all_wait(1)
            gate = threading.Event()
            busy = [moderator._loaded.pool.submit(lambda: gate.wait(TIMEOUT_S)) for _ in range(MAX_WORKERS)]
            held.gate.set()
            await held.nothing_left()
            while not any(owner.waiting for owner in moderator._loaded.pool._owners.values()):
                await asyncio.sleep(0.001)  # until the feed waits for a thread
            feeding.cancel()
            await asyncio.wait([feeding])
            assert not stream._inner._calls.lock.locked()  # type: ignore[union-attr]  # it is a GuardStream
            gate.set()
            assert all(each.result(TIMEOUT_S) for each in busy)
            assert await stream.feed(TEXT)

    asyncio.run(used())


def test_a_deadline_leaves_no_work_behind(moderator: Moderator, held: HeldRunner) -> None:
    async def used() -> None:
        async with AsyncExitStack() as stack:
            (stream,) = await opened(stack, moderator, 1)
            held.hold()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await stream.feed(LONG)
            held.gate.set()
            await held.nothing_left()
            assert await stream.feed(TEXT)

    asyncio.run(used())


def test_leaving_a_stream_ends_the_feed_that_waits(moderator: Moderator, held: HeldRunner) -> None:
    async def used() -> None:
        async with moderator.astream() as stream:
            held.hold()
            feeding = asyncio.ensure_future(stream.feed(TEXT))
            await held.all_wait(1)
        with pytest.raises(StreamClosedError):
            await feeding
        held.gate.set()
        await held.nothing_left()
        assert held.engine.num_streams == 0

    asyncio.run(used())


def test_a_failing_engine_gives_every_waiting_feed_an_error_of_ours(moderator: Moderator, held: HeldRunner) -> None:
    async def used() -> None:
        async with AsyncExitStack() as stack:
            streams = await opened(stack, moderator, 30)
            held.hold()
            held.error = MemoryError("no memory")
            feeding = feeding_all(streams, lambda stream: stream.feed(TEXT))
            await held.all_wait(30)
            held.gate.set()
            errors = await asyncio.gather(*feeding, return_exceptions=True)
            assert all(isinstance(error, GuardFailedError) for error in errors)
            held.error = None
            assert len(await streams[0].feed("")) > 5

    asyncio.run(used())


def test_closing_the_moderator_ends_every_feed_that_waits(moderator: Moderator, held: HeldRunner) -> None:
    async def used() -> None:
        async with AsyncExitStack() as stack:
            streams = await opened(stack, moderator, 30)
            held.hold()
            feeding = feeding_all(streams, lambda stream: stream.feed(TEXT))
            await held.all_wait(30)
            moderator.close()
            errors = await asyncio.gather(*feeding, return_exceptions=True)
            assert [type(error) for error in errors] == [StreamClosedError] * 30

    asyncio.run(used())


def test_a_dead_thread_of_the_engine_is_noticed(
    moderator: Moderator, held: HeldRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamward.moderation.coroutines._LOOK_S", 0.01)

    async def used() -> None:
        async with moderator.astream() as stream:
            held.hold()
            feeding = asyncio.ensure_future(stream.feed(TEXT))
            await held.all_wait(1)
            held.worker._waiting.clear()  # as if an error had come in between
            with pytest.raises(GuardFailedError):
                async with asyncio.timeout(TIMEOUT_S):
                    await feeding
        held.gate.set()

    asyncio.run(used())
