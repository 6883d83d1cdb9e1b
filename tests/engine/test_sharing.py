"""Streams that share pages by a fork, or lose them to others, get the verdicts of one full pass."""

import pytest

from streamward.errors import InputError
from streamward.model.guard_model import GuardModel
from streamward.schema import Side
from tests.engine.harness import Judge, make_engine, random_guard, random_ids


@pytest.fixture(params=[True, False], ids=["qwen3", "llama"])
def guard(request: pytest.FixtureRequest) -> GuardModel:
    return random_guard(has_qk_norm=request.param)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 20])
def test_fork_and_source_go_on_differently(guard: GuardModel, length: int) -> None:
    judge = Judge(make_engine(guard))
    source = judge.open()
    judge.feed(source, random_ids(length, seed=1))
    fork = judge.fork(source)
    for turn in range(6):
        judge.extend(fork, random_ids(3, seed=100 + turn))
        judge.extend(source, random_ids(2, seed=200 + turn))
        judge.step()
    judge.check()


def test_a_fork_takes_no_page_until_it_writes() -> None:
    engine = make_engine(random_guard())
    source = engine.open()
    engine.extend(source, random_ids(20, seed=1), head=None)
    engine.step()
    free = engine.num_free_pages
    fork = engine.fork(source)
    assert engine.num_free_pages == free
    engine.extend(fork, [1], head=None)
    assert engine.num_free_pages == free - 1
    engine.step()
    engine.extend(source, [2], head=None)
    assert engine.num_free_pages == free - 1


def test_a_fork_repeats_no_verdict_of_its_source() -> None:
    engine = make_engine(random_guard())
    source = engine.open()
    engine.extend(source, random_ids(12, seed=1), head=Side.RESPONSE)
    engine.step()
    fork = engine.fork(source)
    assert engine.step() == []
    engine.extend(fork, [3, 4], head=Side.RESPONSE)
    assert [(output.stream_id, output.position) for output in engine.step()] == [(fork, 12)]


def test_an_empty_stream_can_be_forked(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard))
    source = judge.open()
    fork = judge.fork(source)
    judge.feed(source, random_ids(9, seed=1))
    judge.feed(fork, random_ids(9, seed=2))
    judge.check()


def test_a_stream_with_queued_tokens_is_not_forked() -> None:
    engine = make_engine(random_guard())
    stream = engine.open()
    engine.extend(stream, [1, 2], head=None)
    with pytest.raises(InputError, match="2 queued tokens"):
        engine.fork(stream)
    assert engine.num_streams == 1


def test_closing_the_source_leaves_its_forks_whole(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard, num_pages=12))
    source = judge.open()
    judge.feed(source, random_ids(21, seed=1))
    forks = [judge.fork(source) for _ in range(3)]
    judge.close(source)
    newcomer = judge.open()
    judge.feed(newcomer, random_ids(30, seed=2))
    for fork in forks:
        judge.feed(fork, random_ids(10, seed=fork))
    judge.check()


def test_closing_source_and_forks_in_any_order_frees_every_page(guard: GuardModel) -> None:
    engine = make_engine(guard)
    free = engine.num_free_pages
    source = engine.open()
    engine.extend(source, random_ids(21, seed=1), head=None)
    engine.step()
    first, second = engine.fork(source), engine.fork(source)
    engine.extend(first, random_ids(9, seed=2), head=None)
    for stream in (source, second, first):
        engine.close(stream)
    assert engine.num_free_pages == free


@pytest.mark.parametrize("kept", [0, 3, 8, 11, 16, 19])
def test_a_fork_truncated_into_shared_pages_does_not_write_to_its_source(guard: GuardModel, kept: int) -> None:
    judge = Judge(make_engine(guard))
    source = judge.open()
    judge.feed(source, random_ids(20, seed=1))
    fork = judge.fork(source)
    judge.truncate(fork, kept)
    judge.feed(fork, random_ids(14, seed=2))
    judge.feed(source, random_ids(14, seed=3))
    judge.check()


@pytest.mark.parametrize("kept", [0, 3, 8, 11, 16, 19])
def test_a_source_truncated_into_shared_pages_does_not_write_to_its_fork(guard: GuardModel, kept: int) -> None:
    judge = Judge(make_engine(guard))
    source = judge.open()
    judge.feed(source, random_ids(20, seed=1))
    fork, grandchild = judge.fork(source), judge.fork(source)
    judge.truncate(source, kept)
    judge.extend(source, random_ids(14, seed=2))
    judge.extend(fork, random_ids(5, seed=3))
    judge.drain()
    judge.truncate(grandchild, 2)
    judge.feed(grandchild, random_ids(30, seed=4))
    judge.check()


def test_more_streams_than_the_cache_holds_are_judged_as_one_pass_each(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard, num_pages=10))
    streams = [judge.open() for _ in range(8)]
    for turn in range(10):
        for stream in streams:
            judge.feed(stream, random_ids(5, seed=10 * turn + stream))
    judge.check()


def evicted_stream(judge: Judge) -> int:
    """Judge 30 tokens of a stream, then let another take its pages."""
    stream = judge.open()
    judge.feed(stream, random_ids(30, seed=1))
    other = judge.open()
    judge.feed(other, random_ids(60, seed=2))
    assert judge.engine._streams[stream].pages == []
    judge.close(other)
    return stream


def test_an_evicted_stream_goes_on_without_repeating_verdicts(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard, num_pages=8))
    stream = evicted_stream(judge)
    judge.extend(stream, random_ids(4, seed=3))
    outputs = judge.step()
    assert [(output.position, len(output.risk_probs)) for output in outputs] == [(30, 4)]
    judge.check()


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 31])
def test_an_evicted_stream_is_read_again_in_several_steps(guard: GuardModel, max_batch_tokens: int) -> None:
    judge = Judge(make_engine(guard, num_pages=8, max_batch_tokens=max_batch_tokens))
    stream = evicted_stream(judge)
    judge.feed(stream, random_ids(4, seed=3))
    judge.check()


@pytest.mark.parametrize("kept", [0, 5, 16, 29, 30])
def test_an_evicted_stream_can_be_truncated(guard: GuardModel, kept: int) -> None:
    judge = Judge(make_engine(guard, num_pages=8))
    stream = evicted_stream(judge)
    judge.truncate(stream, kept)
    assert judge.engine.num_queued(stream) == 0
    assert judge.step() == []
    judge.feed(stream, random_ids(12, seed=3))
    judge.check()


@pytest.mark.parametrize("kept", [3, 20, 30, 32])
def test_a_stream_being_read_again_can_be_truncated(guard: GuardModel, kept: int) -> None:
    judge = Judge(make_engine(guard, num_pages=8, max_batch_tokens=10))
    stream = evicted_stream(judge)
    judge.extend(stream, random_ids(6, seed=3))
    judge.step()
    judge.truncate(stream, kept)
    judge.drain()
    fork = judge.fork(stream)
    judge.feed(stream, random_ids(6, seed=4))
    judge.feed(fork, random_ids(6, seed=5))
    judge.check()


def test_an_evicted_stream_can_be_forked(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard, num_pages=12))
    stream = judge.open()
    judge.feed(stream, random_ids(30, seed=1))
    other = judge.open()
    judge.feed(other, random_ids(90, seed=2))
    judge.close(other)
    fork = judge.fork(stream)
    judge.feed(fork, random_ids(9, seed=3))
    judge.feed(stream, random_ids(9, seed=4))
    judge.check()


def test_the_longest_unused_stream_is_evicted_first() -> None:
    judge = Judge(make_engine(random_guard(), num_pages=6))
    first, second = judge.open(), judge.open()
    judge.feed(first, random_ids(16, seed=1))
    judge.feed(second, random_ids(16, seed=2))
    judge.feed(first, random_ids(1, seed=3))
    judge.feed(judge.open(), random_ids(16, seed=4))
    pages = {stream.id: len(stream.pages) for stream in judge.engine._streams.values()}
    assert pages[first] == 3
    assert pages[second] == 0


def test_a_fork_is_as_recently_used_as_its_source() -> None:
    judge = Judge(make_engine(random_guard(), num_pages=6))
    idle, source = judge.open(), judge.open()
    judge.feed(idle, random_ids(16, seed=1))
    judge.feed(source, random_ids(16, seed=2))
    fork = judge.fork(source)
    judge.close(source)
    judge.feed(judge.open(), random_ids(24, seed=4))
    pages = {stream.id: len(stream.pages) for stream in judge.engine._streams.values()}
    assert pages[fork] == 2
    assert pages[idle] == 0


def test_a_shared_page_is_not_copied_when_its_other_reader_must_be_evicted_anyway() -> None:
    judge = Judge(make_engine(random_guard(), num_pages=1))
    source = judge.open()
    judge.feed(source, random_ids(5, seed=1))
    fork = judge.fork(source)
    judge.feed(fork, random_ids(2, seed=2))
    judge.check()
