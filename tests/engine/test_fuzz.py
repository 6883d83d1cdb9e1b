"""Random sequences of operations on an engine too small for them, against one full pass."""

import random
from collections.abc import Callable

import pytest

from streamward.errors import InputError, OverloadedError
from streamward.schema import Side
from tests.engine.harness import Judge, make_engine, random_guard, random_ids

MAX_TOKENS = 56
GUARDS = [random_guard(has_qk_norm=True), random_guard(has_qk_norm=False)]


class Fuzz:
    """One random sequence. Refused operations must leave the engine as it was; `Judge` keeps what should be there."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        page_tokens = self.rng.choice([1, 4, 5, 8, 60])
        self.judge = Judge(
            make_engine(
                GUARDS[seed % 2],
                num_pages=self.rng.choice([60, 80, 120, 300]) // page_tokens,
                page_tokens=page_tokens,
                max_batch_tokens=self.rng.choice([3, 11, 512]),
                max_queued_tokens=self.rng.choice([50, 1000]),
                max_streams=6,
            )
        )
        self.num_free = self.judge.engine.num_free_pages
        self.num_refused = 0
        self.num_rereads = 0
        self.operations: list[Callable[[int], object]] = [
            self.extend,
            self.extend,
            self.extend,
            self.truncate,
            self.fork,
            self.judge.close,
        ]

    def run(self, num_operations: int) -> None:
        for _ in range(num_operations):
            if self.rng.random() < 0.3:
                self.step()
            elif not self.judge.streams or self.rng.random() < 0.15:
                self.attempt(lambda _: self.judge.open(), 0)
            else:
                self.attempt(self.rng.choice(self.operations), self.rng.choice(list(self.judge.streams)))
        assert self.judge.engine.num_queued_tokens == sum(map(self.judge.engine.num_queued, self.judge.streams))
        self.judge.check()
        assert self.judge.engine.num_queued_tokens == 0
        for stream in list(self.judge.streams):
            self.judge.close(stream)
        assert self.judge.engine.num_free_pages == self.num_free

    def step(self) -> None:
        streams = self.judge.engine._streams.values()
        self.num_rereads += sum(stream.num_cached < stream.num_scored and stream.num_pending > 0 for stream in streams)
        self.judge.step()

    def attempt(self, operation: Callable[[int], object], stream: int) -> None:
        try:
            operation(stream)
        except OverloadedError:
            self.num_refused += 1

    def extend(self, stream: int) -> None:
        count = min(self.rng.choice([1, 1, 2, 5, 13, 30]), MAX_TOKENS - len(self.judge.streams[stream].ids))
        if count > 0:
            head = self.rng.choice([None, Side.RESPONSE, Side.RESPONSE, Side.PROMPT])
            self.judge.extend(stream, random_ids(count, seed=self.rng.randrange(10**6)), head=head)

    def truncate(self, stream: int) -> None:
        self.judge.truncate(stream, self.rng.randint(0, len(self.judge.streams[stream].ids)))

    def fork(self, stream: int) -> None:
        try:
            self.judge.fork(stream)
        except InputError:
            assert self.judge.engine.num_queued(stream)


@pytest.mark.parametrize("block", range(10))
def test_random_operations_give_the_verdicts_of_one_full_pass(block: int) -> None:
    runs = [Fuzz(seed) for seed in range(20 * block, 20 * block + 20)]
    for fuzz in runs:
        fuzz.run(60)
    # Else the engine was never short of room, and the test says little.
    assert sum(fuzz.num_refused for fuzz in runs) > 0
    assert sum(fuzz.num_rereads for fuzz in runs) > 0
