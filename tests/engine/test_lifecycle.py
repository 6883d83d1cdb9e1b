"""Streams come and go, grow old and meet in threads; nothing of them is left and nothing of theirs is mixed up."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from streamward.engine.torch_attention import KVCache
from streamward.errors import StreamClosedError
from streamward.model.attention import round_size
from streamward.schema import Side
from tests.engine.harness import (
    MAX_POSITIONS,
    Judge,
    assert_same,
    counted_tokens,
    full_pass,
    make_engine,
    opinions_of,
    random_guard,
    random_ids,
)


def test_ten_thousand_streams_leave_nothing_behind() -> None:
    engine = make_engine(random_guard(), num_pages=16)
    free = engine.num_free_pages
    kept_open = engine.open()
    engine.extend(kept_open, random_ids(20, seed=1), head=Side.RESPONSE)
    engine.step()
    held = free - engine.num_free_pages
    for cycle in range(10_000):
        stream = engine.open()
        engine.extend(stream, [cycle % 64, 5, 9], head=Side.RESPONSE)
        assert len(engine.step()) == 1
        engine.close(stream)
    assert engine.num_streams == 1
    assert engine.num_free_pages == free - held
    assert engine.num_queued_tokens == 0
    cache = engine._cache
    held_objects = [each for one in (engine, cache, cache._pool, cache._index) for each in vars(one).values()]
    assert max(len(each) for each in held_objects if isinstance(each, dict | list | set | bytearray)) <= 16


def test_the_last_of_many_streams_is_judged_like_the_first() -> None:
    judge = Judge(make_engine(random_guard(), num_pages=16))
    for cycle in range(300):
        stream = judge.open()
        judge.feed(stream, random_ids(1 + cycle % 40, seed=cycle))
        judge.check()
        judge.close(stream)


def test_closing_a_stream_frees_its_pages() -> None:
    engine = make_engine(random_guard(), num_pages=4)
    stream = engine.open()
    engine.extend(stream, random_ids(30, seed=1), head=Side.RESPONSE)
    assert engine.num_free_pages == 0
    engine.close(stream)
    assert engine.num_free_pages == 4
    assert engine.num_queued_tokens == 0
    assert engine.step() == []


def test_closing_twice_does_nothing() -> None:
    engine = make_engine(random_guard())
    stream, other = engine.open(), engine.open()
    engine.extend(other, [1, 2], head=Side.RESPONSE)
    engine.close(stream)
    engine.close(stream)
    assert engine.num_streams == 1
    assert engine.num_queued_tokens == 2


def test_a_stream_id_is_never_given_twice() -> None:
    engine = make_engine(random_guard())
    ids = []
    for _ in range(5):
        ids.append(engine.open())
        engine.close(ids[-1])
    assert len(set(ids)) == 5


@pytest.mark.parametrize("operation", ["extend", "truncate", "fork", "length", "num_queued"])
def test_a_closed_stream_is_refused(operation: str) -> None:
    engine = make_engine(random_guard())
    stream = engine.open()
    engine.close(stream)
    calls = {
        "extend": lambda: engine.extend(stream, [1], head=None),
        "truncate": lambda: engine.truncate(stream, 0),
        "fork": lambda: engine.fork(stream),
        "length": lambda: engine.length(stream),
        "num_queued": lambda: engine.num_queued(stream),
    }
    with pytest.raises(StreamClosedError, match=f"stream {stream} was closed or never opened"):
        calls[operation]()


def test_a_step_reads_new_tokens_only_however_old_the_stream() -> None:
    guard = random_guard()
    engine = make_engine(guard)
    stream = engine.open()
    with counted_tokens(guard) as counts:
        for start in range(0, MAX_POSITIONS, 4):
            engine.extend(stream, random_ids(4, seed=start), head=Side.RESPONSE)
            engine.step()
    assert counts == [4] * (MAX_POSITIONS // 4)


def test_truncating_does_not_make_kept_tokens_be_read_again() -> None:
    guard = random_guard()
    engine = make_engine(guard)
    stream = engine.open()
    with counted_tokens(guard) as counts:
        for turn in range(20):
            engine.extend(stream, random_ids(10, seed=turn), head=Side.RESPONSE)
            engine.step()
            engine.truncate(stream, 5 + turn)
    assert counts == [10] * 20


def test_a_fork_does_not_read_what_its_source_has_read() -> None:
    guard = random_guard()
    engine = make_engine(guard)
    source = engine.open()
    engine.extend(source, random_ids(50, seed=1), head=None)
    engine.step()
    with counted_tokens(guard) as counts:
        for _ in range(4):
            engine.extend(engine.fork(source), [1, 2, 3], head=Side.RESPONSE)
        engine.step()
    assert counts == [12]


def test_a_step_without_queued_tokens_runs_no_forward_pass() -> None:
    guard = random_guard()
    engine = make_engine(guard)
    stream = engine.open()
    with counted_tokens(guard) as counts:
        assert engine.step() == []
        engine.extend(stream, [1], head=None)
        engine.truncate(stream, 0)
        assert engine.step() == []
    assert counts == []


@pytest.mark.parametrize("failing", ["decoder", "response_heads"])
def test_a_pass_that_fails_loses_no_verdict(failing: str) -> None:
    guard = random_guard()
    judge = Judge(make_engine(guard))
    stream, other = judge.open(), judge.open()
    judge.feed(stream, random_ids(5, seed=1))
    judge.extend(stream, random_ids(9, seed=2))
    judge.extend(other, random_ids(9, seed=3), head=Side.PROMPT)

    def fail(*_: object) -> None:
        raise MemoryError

    hook = getattr(guard, failing).register_forward_hook(fail)
    with pytest.raises(MemoryError):
        judge.step()
    hook.remove()
    assert judge.engine.num_queued_tokens == 18
    judge.check()


def test_a_list_changed_by_the_caller_later_does_not_change_the_stream() -> None:
    judge = Judge(make_engine(random_guard()))
    stream = judge.open()
    ids = random_ids(10, seed=1)
    judge.extend(stream, ids)
    ids[:] = [0] * 10
    judge.check()


def test_eight_threads_get_the_verdicts_of_their_own_streams() -> None:
    guard = random_guard()
    engine = make_engine(guard, num_pages=80, page_tokens=4)
    given: dict[int, dict] = {}
    given_lock = threading.Lock()
    start = threading.Barrier(8)

    def run(worker: int) -> tuple[int, list[int]]:
        stream = engine.open()
        ids = random_ids(60, seed=worker)
        start.wait(timeout=30)
        for first in range(0, 60, 1 + worker % 3):
            engine.extend(stream, ids[first : first + 1 + worker % 3], head=Side.RESPONSE)
            while engine.num_queued(stream):
                for stream_id, position, opinion in opinions_of(engine.step()):
                    with given_lock:
                        assert given.setdefault(stream_id, {}).setdefault(position, opinion) is opinion
        return stream, ids

    with ThreadPoolExecutor(8) as pool:
        finished = list(pool.map(run, range(8), timeout=60))
    for stream, ids in finished:
        assert_same(given[stream], full_pass(guard, ids, [Side.RESPONSE] * 60))
        engine.close(stream)
    assert engine.num_free_pages == 80


def test_an_engine_made_in_inference_mode_serves_outside_of_it() -> None:
    with torch.inference_mode():
        judge = Judge(make_engine(random_guard()))
    source = judge.open()
    judge.feed(source, random_ids(5, seed=1))
    fork = judge.fork(source)
    judge.feed(fork, random_ids(5, seed=2))
    judge.check()


def test_lengths_are_rounded_so_that_few_kernels_are_compiled() -> None:
    """oneDNN compiles and keeps a kernel for every new shape; with every length there is, memory would grow."""
    assert len({round_size(size) for size in range(1, 513)}) < 25
    assert all(0 <= round_size(size) - size < max(4, size / 2) for size in range(1, 2000))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's memory counters")
def test_an_unused_cache_takes_no_memory() -> None:
    def resident_pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    config = random_guard().decoder.config
    before = resident_pages()
    cache = KVCache(config, num_slots=2**22, dtype=torch.bfloat16, device=torch.device("cpu"))
    taken = (resident_pages() - before) * 4096
    assert taken < 0.1 * sum(tensor.nbytes for tensor in cache.keys)
    assert not cache.keys[0][:, :1000].any()
