"""Nobody waits in proportion to what somebody else asked for."""

import asyncio
import threading

from streamward.moderation.moderator import Moderator
from streamward.moderation.worker_pool import WorkerPool
from streamward.policy import Policy
from tests.moderation.guards import stream_guard

TIMEOUT_S = 30


def test_an_owner_never_takes_all_threads() -> None:
    pool, gate = WorkerPool(4), threading.Event()
    held = [pool.submit(lambda: gate.wait(TIMEOUT_S), owner="many") for _ in range(50)]
    assert pool.submit(lambda: "served", owner="other").result(TIMEOUT_S) == "served"
    others = [pool.submit(lambda: gate.wait(TIMEOUT_S), owner="other") for _ in range(50)]
    assert pool.submit(lambda: "served", owner="third").result(TIMEOUT_S) == "served"
    gate.set()
    assert all(each.result(TIMEOUT_S) for each in [*held, *others])
    pool.close(TIMEOUT_S)


def test_calls_without_an_owner_take_all_threads() -> None:
    pool, together = WorkerPool(4), threading.Barrier(4)
    assert sorted(each.result(TIMEOUT_S) for each in [pool.submit(together.wait) for _ in range(4)]) == [0, 1, 2, 3]
    pool.close(TIMEOUT_S)


def test_an_owner_alone_is_served_by_a_single_thread() -> None:
    pool = WorkerPool(1)
    assert [pool.submit(lambda: 1, owner="a").result(TIMEOUT_S) for _ in range(3)] == [1, 1, 1]
    pool.close(TIMEOUT_S)


def test_short_texts_overtake_fifty_long_ones_of_another_owner() -> None:
    guard = stream_guard(max_batch_tokens=64, max_long_tokens=16)
    with Moderator(guard, policy=Policy.load("strict"), max_workers=8) as moderator:
        many, few = moderator.with_owner("many"), moderator.with_owner("few")
        step, num_steps = guard.engine.step, [0]

        def counted() -> object:
            num_steps[0] += 1
            return step()

        guard.engine.step = counted  # type: ignore[method-assign, assignment]

        async def used() -> int:
            long = [asyncio.ensure_future(many.amoderate(response="The cat sat. " * 400)) for _ in range(50)]
            while num_steps[0] < 5:
                await asyncio.sleep(0.001)
            before, most = num_steps[0], 0
            for _ in range(10):
                await few.amoderate(prompt="The cat sat.")
                most, before = max(most, num_steps[0] - before), num_steps[0]
            assert not all(each.done() for each in long)
            for each in long:
                each.cancel()
            await asyncio.wait(long)
            return most

        assert asyncio.run(used()) <= 8
