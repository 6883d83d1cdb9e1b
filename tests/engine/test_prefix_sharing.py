"""Streams that begin alike share pages of the cache: what is computed is less, and no verdict changes a bit."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.native_runner import NativeModelRunner
from streamward.engine.page_pool import PagePool
from streamward.errors import OverloadedError
from streamward.kernels.cache import decoder_page_bytes
from streamward.kernels.library import available_units, load_kernels
from streamward.model.preparation import prepare
from streamward.schema import Side
from tests.model.small import FAMILIES, small_guard

pytestmark = pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")
PAGE = 16
GUARDS = {"int8": prepare(small_guard(**FAMILIES["llama"])), "full": small_guard(**FAMILIES["gemma3"])}
Row = tuple[NDArray[np.float32], NDArray[np.float32]]


def make_engine(
    *, guard: str = "int8", num_pages: int = 64, kv_cache: Literal["full", "int8"] = "full", **limits: object
) -> Engine:
    parameters = GUARDS[guard]
    shape = parameters.config
    page_bytes = decoder_page_bytes(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        page_tokens=PAGE,
        is_int8=kv_cache == "int8",
    )
    values = {"page_tokens": PAGE, "kv_cache_bytes": num_pages * page_bytes, "kv_cache": kv_cache, **limits}
    config = EngineConfig.model_validate({"max_batch_tokens": 70, **values})
    return Engine(config, NativeModelRunner(parameters, config, kernels=load_kernels()))


def ids_of(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(50) for _ in range(count)]


@dataclass
class Driven:
    """One engine under test: its streams by the number both engines know them by."""

    engine: Engine
    streams: dict[int, int] = field(default_factory=dict)
    given: dict[tuple[int, int], Row] = field(default_factory=dict)

    def drain(self) -> None:
        names = {stream: name for name, stream in self.streams.items()}
        for _ in range(10_000):
            outputs = self.engine.step()
            for output in outputs:
                for row, probs in enumerate(zip(output.risk_probs, output.category_probs, strict=True)):
                    self.given[names[output.stream_id], output.position + row] = probs
            if not self.engine.num_queued_tokens:
                return
        raise AssertionError("the queue does not empty")

    def check_pages(self) -> None:
        """Every page is counted as often as streams refer to it, and only then it is taken."""
        pool: PagePool = self.engine._cache._pool
        used = Counter(page for sequence in self.engine._streams.values() for page in sequence.pages)
        assert [pool.num_users(page) for page in range(len(pool._is_free))] == [
            used[page] for page in range(len(pool._is_free))
        ]
        assert pool.num_free == len(pool._is_free) - len(used)
        assert sorted(pool._kept) == [page for page, state in enumerate(pool._is_free) if state == 2]
        assert set(pool._kept) <= pool._has_contents == set(self.engine._cache._index._keys)


def both(engines: tuple[Driven, Driven], act: Callable[[Driven], object]) -> bool:
    """Do the same with both; False if either had no room, which may happen to one alone."""
    found = []
    for engine in engines:
        try:
            act(engine)
            found.append(True)
        except OverloadedError:
            found.append(False)
    return all(found)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), guard=st.sampled_from(sorted(GUARDS)), kv_cache=st.sampled_from(["full", "int8"]))
def test_sharing_changes_no_bit_leaks_no_page_and_frees_none_that_is_shared(
    seed: int, guard: str, kv_cache: str
) -> None:
    rng = random.Random(seed)
    num_pages = rng.choice([24, 40, 90])  # the small caches evict, and use kept pages again
    limits = {
        "guard": guard,
        "kv_cache": kv_cache,
        "num_pages": num_pages,
        "max_batch_tokens": rng.choice([9, 70, 300]),
    }
    shared, single = (Driven(make_engine(prefix_sharing=on, **limits)) for on in (True, False))  # type: ignore[arg-type]  # of several types
    engines = (shared, single)
    texts: dict[int, list[int]] = {}
    for number in range(rng.randrange(5, 40)):
        what = rng.choice(["open", "open", "extend", "extend", "extend", "truncate", "fork", "close", "step"])
        name = rng.choice(sorted(texts)) if texts else None
        if what == "open" or name is None:
            owner = rng.choice([None, "a", "b"])
            beginning = ids_of(rng.randrange(3), 90)[: rng.choice([15, 16, 31, 50, 64, 90])]
            text = beginning + ids_of(number, rng.randrange(1, 20))
            for engine in engines:
                engine.streams[number] = engine.engine.open(owner=owner)
            name, texts[number] = number, []
            added = [(text[: len(beginning)], None), (text[len(beginning) :], Side.PROMPT)]
        elif what == "extend":
            added = [(ids_of(rng.randrange(4), rng.randrange(1, 40)), rng.choice([None, Side.RESPONSE]))]
        else:
            added = []
        for ids, head in added:
            if len(texts[name]) + len(ids) > 200:
                continue

            def extend(engine: Driven, ids: list[int] = ids, head: Side | None = head, name: int = name) -> None:
                engine.engine.extend(engine.streams[name], ids, head=head)

            if both(engines, extend):
                texts[name] += ids
            else:  # one of them had room: as before for both
                for engine in engines:
                    engine.engine.truncate(engine.streams[name], len(texts[name]))
        if what == "truncate":
            del texts[name][rng.randrange(len(texts[name]) + 1) :]
            for engine in engines:
                engine.engine.truncate(engine.streams[name], len(texts[name]))
                engine.given = {
                    at: row for at, row in engine.given.items() if at[0] != name or at[1] < len(texts[name])
                }
        elif what == "fork" and not any(each.engine.num_queued(each.streams[name]) for each in engines):
            texts[number] = list(texts[name])
            for engine in engines:
                engine.streams[number] = engine.engine.fork(engine.streams[name])
        elif what == "close":
            del texts[name]
            for engine in engines:
                engine.engine.close(engine.streams.pop(name))
                engine.given = {at: row for at, row in engine.given.items() if at[0] != name}
        elif what == "step":
            for engine in engines:
                engine.drain()
        for engine in engines:
            engine.check_pages()
    for engine in engines:
        engine.drain()
        engine.check_pages()
        assert engine.engine.num_queued_tokens == 0
    assert sorted(shared.given) == sorted(single.given)
    for at, (risk, category) in single.given.items():
        assert np.array_equal(shared.given[at][0], risk) and np.array_equal(shared.given[at][1], category)
    assert single.engine.statistics.reused_tokens == 0
    for stream in rng.sample(sorted(shared.streams.values()), len(shared.streams)):
        shared.engine.close(stream)
        shared.check_pages()
    assert shared.engine.num_free_pages == num_pages


def opened(engine: Engine, ids: list[int], *, owner: str | None = None, head: Side | None = None) -> int:
    stream = engine.open(owner=owner)
    engine.extend(stream, ids, head=head)
    return stream


def drain(engine: Engine) -> None:
    while engine.num_queued_tokens:
        engine.step()


def test_streams_opened_together_compute_a_common_beginning_once() -> None:
    engine = make_engine(num_pages=200)
    prompt = ids_of(1, 5 * PAGE)
    for number in range(8):
        opened(engine, prompt + ids_of(number + 2, 3))
    drain(engine)
    assert engine.statistics.computed_tokens == 5 * PAGE + 8 * 3
    assert engine.statistics.reused_tokens == 7 * 5 * PAGE
    assert engine.num_free_pages == 200 - 5 - 8


def test_a_beginning_is_found_after_its_stream_was_closed() -> None:
    engine = make_engine()
    prompt = ids_of(1, 3 * PAGE + 5)
    for _ in range(4):
        stream = opened(engine, prompt)
        drain(engine)
        engine.close(stream)
    assert engine.num_free_pages == 64
    assert engine.statistics.computed_tokens == 3 * PAGE + 5 + 3 * 5
    assert engine.statistics.prefix_hits == 3


def test_tokens_that_heads_score_are_computed() -> None:
    engine = make_engine()
    prompt = ids_of(1, 2 * PAGE)
    opened(engine, prompt)
    drain(engine)
    stream = opened(engine, prompt, head=Side.PROMPT)
    outputs = engine.step()
    assert sum(len(output.risk_probs) for output in outputs if output.stream_id == stream) == 2 * PAGE
    assert engine.statistics.reused_tokens == 0


def test_an_answer_is_found_as_context_of_the_next_turn() -> None:
    engine = make_engine()
    prompt, answer = ids_of(1, PAGE + 3), ids_of(2, 2 * PAGE)
    stream = opened(engine, prompt)
    engine.extend(stream, answer, head=Side.RESPONSE)
    drain(engine)
    engine.close(stream)
    opened(engine, prompt + answer + ids_of(3, 10))
    drain(engine)
    assert engine.statistics.reused_tokens == 3 * PAGE


def test_owners_share_nothing() -> None:
    engine = make_engine()
    for owner in ("a", "b", None):
        opened(engine, ids_of(1, 2 * PAGE), owner=owner)
        drain(engine)
    assert engine.statistics.reused_tokens == 0
    opened(engine, ids_of(1, 2 * PAGE), owner="b")
    drain(engine)
    assert engine.statistics.reused_tokens == 2 * PAGE


def test_nothing_is_shared_where_that_is_switched_off() -> None:
    engine = make_engine(prefix_sharing=False)
    for _ in range(3):
        opened(engine, ids_of(1, 2 * PAGE))
    drain(engine)
    assert engine.statistics.reused_tokens == 0
    assert engine.statistics.computed_tokens == 3 * 2 * PAGE


def test_a_kept_page_that_was_needed_for_something_else_is_not_found() -> None:
    engine = make_engine(num_pages=4)
    stream = opened(engine, ids_of(1, 2 * PAGE))
    drain(engine)
    engine.close(stream)
    other = opened(engine, ids_of(2, 4 * PAGE))
    drain(engine)
    engine.close(other)
    opened(engine, ids_of(1, 2 * PAGE))
    drain(engine)
    assert engine.statistics.reused_tokens == 0


def test_a_page_written_again_after_a_truncation_is_not_found_by_what_it_held() -> None:
    engine = make_engine()
    ids = ids_of(1, 2 * PAGE)
    stream = opened(engine, ids)
    drain(engine)
    engine.truncate(stream, PAGE + 4)
    engine.extend(stream, ids_of(9, PAGE), head=None)
    drain(engine)
    opened(engine, ids)
    drain(engine)
    assert engine.statistics.reused_tokens == PAGE


def test_an_engine_that_recovers_forgets_what_pages_hold() -> None:
    engine = make_engine()
    stream = opened(engine, ids_of(1, 2 * PAGE))
    drain(engine)
    engine.recover({stream})
    opened(engine, ids_of(1, 2 * PAGE))
    drain(engine)
    assert engine.statistics.reused_tokens == 0
