"""Full queues and caches are refused, and what is refused leaves everything else at work."""

import pytest

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.torch_runner import TorchModelRunner
from streamward.errors import ConfigError, ContextLengthError, OverloadedError
from streamward.schema import Side
from tests.engine.harness import MAX_POSITIONS, Judge, counted_tokens, make_engine, random_guard, random_ids


def test_more_streams_than_allowed_are_refused_until_one_closes() -> None:
    judge = Judge(make_engine(random_guard(), max_streams=3))
    first, *_ = [judge.open() for _ in range(3)]
    with pytest.raises(OverloadedError, match="max_streams"):
        judge.open()
    with pytest.raises(OverloadedError, match="max_streams"):
        judge.fork(first)
    assert judge.engine.num_streams == 3
    judge.close(first)
    judge.feed(judge.open(), random_ids(9, seed=1))
    judge.check()


def test_a_full_queue_is_refused_until_a_step_empties_it() -> None:
    judge = Judge(make_engine(random_guard(), max_queued_tokens=20))
    first, second = judge.open(), judge.open()
    judge.extend(first, random_ids(15, seed=1))
    with pytest.raises(OverloadedError, match="21 tokens would be queued; max_queued_tokens is 20"):
        judge.extend(second, random_ids(6, seed=2))
    judge.extend(second, random_ids(5, seed=3))
    judge.step()
    judge.extend(second, random_ids(20, seed=4))
    judge.check()


@pytest.mark.parametrize("free", ["truncate", "close"])
def test_tokens_taken_out_of_the_queue_make_room_in_it(free: str) -> None:
    engine = make_engine(random_guard(), max_queued_tokens=20)
    first, second = engine.open(), engine.open()
    engine.extend(first, random_ids(20, seed=1), head=Side.RESPONSE)
    {"truncate": lambda: engine.truncate(first, 0), "close": lambda: engine.close(first)}[free]()
    engine.extend(second, random_ids(20, seed=2), head=Side.RESPONSE)
    assert engine.num_queued_tokens == 20


def test_a_cache_full_of_waiting_streams_is_refused_until_one_closes() -> None:
    judge = Judge(make_engine(random_guard(), num_pages=8))
    first, second, third = (judge.open() for _ in range(3))
    judge.extend(first, random_ids(30, seed=1))
    judge.extend(second, random_ids(30, seed=2))
    with pytest.raises(OverloadedError, match="0 free pages and 0 that idle streams hold; 1 are needed"):
        judge.extend(third, [1])
    assert judge.engine.length(third) == 0
    judge.close(first)
    judge.extend(third, random_ids(20, seed=3))
    judge.check()


def test_waiting_streams_are_not_evicted() -> None:
    judge = Judge(make_engine(random_guard(), num_pages=8))
    idle, waiting, newcomer = (judge.open() for _ in range(3))
    judge.feed(waiting, random_ids(20, seed=1))
    judge.feed(idle, random_ids(24, seed=2))
    judge.extend(waiting, random_ids(10, seed=3))
    judge.extend(newcomer, random_ids(30, seed=4))
    judge.check()


def test_a_refused_request_takes_no_pages_from_idle_streams() -> None:
    guard = random_guard()
    judge = Judge(make_engine(guard, num_pages=8))
    idle, waiting, newcomer = (judge.open() for _ in range(3))
    judge.feed(idle, random_ids(16, seed=1))
    judge.extend(waiting, random_ids(40, seed=2))
    with pytest.raises(OverloadedError):
        judge.extend(newcomer, random_ids(30, seed=3))
    judge.drain()
    with counted_tokens(guard) as counts:
        judge.feed(idle, [1])
    assert counts == [1]
    judge.check()


def test_a_refused_copy_of_a_shared_page_changes_nothing() -> None:
    judge = Judge(make_engine(random_guard(), num_pages=4))
    source = judge.open()
    judge.feed(source, random_ids(12, seed=1))
    fork, waiting = judge.fork(source), judge.open()
    judge.extend(waiting, random_ids(16, seed=2))
    judge.extend(fork, [1])
    with pytest.raises(OverloadedError):
        judge.extend(source, random_ids(9, seed=3))
    judge.check()


def test_a_stream_longer_than_the_whole_cache_is_refused_as_too_long() -> None:
    judge = Judge(make_engine(random_guard(), num_pages=2))
    stream = judge.open()
    judge.feed(stream, random_ids(16, seed=1))
    with pytest.raises(ContextLengthError, match="17 tokens; at most 16 fit"):
        judge.extend(stream, [1])
    judge.check()


def test_a_stream_past_its_limit_is_refused_and_goes_on_when_truncated() -> None:
    judge = Judge(make_engine(random_guard(), max_stream_tokens=20))
    stream = judge.open()
    judge.feed(stream, random_ids(18, seed=1))
    with pytest.raises(ContextLengthError, match="21 tokens; at most 20 fit"):
        judge.extend(stream, [1, 2, 3])
    assert judge.engine.length(stream) == 18
    judge.truncate(stream, 10)
    judge.feed(stream, random_ids(10, seed=2))
    judge.check()


def test_limits_that_fit_neither_model_nor_cache_are_refused() -> None:
    guard = random_guard()
    with pytest.raises(ConfigError, match=f"max_stream_tokens is 129; the model has {MAX_POSITIONS} positions"):
        make_engine(guard, max_stream_tokens=MAX_POSITIONS + 1)
    with pytest.raises(ConfigError, match="the KV cache room for 16 tokens"):
        make_engine(guard, num_pages=2, max_stream_tokens=17)
    with pytest.raises(ConfigError, match="not one page of 64 fits"):
        config = EngineConfig(kv_cache_bytes=100)
        Engine(config, TorchModelRunner(guard, config))


@pytest.mark.parametrize("max_batch_tokens", [1, 4, 10, 30])
def test_no_step_reads_more_than_max_batch_tokens(max_batch_tokens: int) -> None:
    guard = random_guard()
    judge = Judge(make_engine(guard, max_batch_tokens=max_batch_tokens))
    for length in (1, 2, 40, 9, 25):
        judge.extend(judge.open(), random_ids(length, seed=length))
    with counted_tokens(guard) as counts:
        judge.drain()
    assert counts == [max_batch_tokens] * (77 // max_batch_tokens) + [77 % max_batch_tokens] * (
        77 % max_batch_tokens > 0
    )
    judge.check()


def test_a_short_append_does_not_wait_for_a_long_prompt() -> None:
    engine = make_engine(random_guard(), max_batch_tokens=16)
    long, short = engine.open(), engine.open()
    engine.extend(long, random_ids(100, seed=1), head=None)
    engine.extend(short, [1, 2, 3], head=Side.RESPONSE)
    assert [(output.stream_id, len(output.risk_probs)) for output in engine.step()] == [(short, 3)]


def test_more_streams_than_tokens_in_a_step_are_served_in_turn() -> None:
    engine = make_engine(random_guard(), max_batch_tokens=4)
    streams = [engine.open() for _ in range(10)]
    for stream in streams:
        engine.extend(stream, random_ids(50, seed=stream), head=Side.RESPONSE)
    served = [[output.stream_id for output in engine.step()] for _ in range(30)]
    assert {stream for step in served[:3] for stream in step} == set(streams)
    assert {sum(step.count(stream) for step in served) for stream in streams} == {12}


def test_a_newcomer_is_served_before_streams_that_wait_for_their_next_turn() -> None:
    engine = make_engine(random_guard(), max_batch_tokens=2)
    for seed in range(6):
        engine.extend(engine.open(), random_ids(50, seed=seed), head=Side.RESPONSE)
    for _ in range(3):
        engine.step()
    newcomer = engine.open()
    engine.extend(newcomer, [1], head=Side.RESPONSE)
    assert newcomer in {output.stream_id for output in engine.step()}
