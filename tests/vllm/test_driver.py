"""Streams over a reader of whole texts: every token judged once, as one pass judges it, whatever the cache holds."""

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamward.errors import ContextLengthError, InputError, OverloadedError, StreamClosedError, UpstreamError
from streamward.model.guard_model import GuardModel
from streamward.schema import Side
from streamward.vllm.driver import VllmTokenScorer
from tests.engine.harness import Opinion, assert_same, full_pass, opinions_of, random_ids
from tests.engine.harness import random_guard as tiny_guard
from tests.vllm.fake_vllm import BLOCK_TOKENS, FakeVllm

GUARD = tiny_guard()


@pytest.fixture
def fake() -> FakeVllm:
    return FakeVllm(GUARD)


def driver_of(fake: FakeVllm, *, max_streams: int = 8, max_stream_tokens: int | None = None) -> VllmTokenScorer:
    return VllmTokenScorer(
        fake, guard_config=GUARD.guard_config, max_streams=max_streams, max_stream_tokens=max_stream_tokens
    )


def judged(driver: VllmTokenScorer, stream_id: int, ids: list[int], side: Side | None) -> dict[int, Opinion]:
    return {position: opinion for _, position, opinion in opinions_of(driver.score(stream_id, ids, head=side))}


def expected(guard: GuardModel, ids: list[int], first: int) -> dict[int, Opinion]:
    sides = [None] * first + [Side.RESPONSE] * (len(ids) - first)
    return full_pass(guard, ids, sides)


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    drops=st.lists(st.integers(0, 12), min_size=8, max_size=8),
    evictions=st.lists(st.booleans(), min_size=8, max_size=8),
    seed=st.integers(0, 3),
)
def test_any_cut_with_drops_and_evictions_equals_the_whole(cuts, drops, evictions, seed):
    fake = FakeVllm(GUARD)
    driver = driver_of(fake)
    stream, ids, given_ = driver.open(), [], {}
    for number, (size, drop, is_evicted) in enumerate(zip(cuts, drops, evictions, strict=False)):
        kept = max(0, len(ids) - drop)
        driver.truncate(stream, kept)
        ids = ids[:kept] + random_ids(120, seed=seed + number % 2)[kept : kept + size]
        given_ = {at: opinion for at, opinion in given_.items() if at < kept}
        if is_evicted:
            fake.blocks.clear()
        given_ |= judged(driver, stream, ids[kept:], Side.RESPONSE)
    assert_same(given_, expected(GUARD, ids, 0))


def test_an_append_is_asked_for_with_the_cached_beginning(fake):
    driver = driver_of(fake)
    stream = driver.open()
    driver.score(stream, random_ids(40, seed=1), head=Side.RESPONSE)
    driver.score(stream, [5, 6], head=Side.RESPONSE)
    assert fake.asked == [(40, True), (42, True)]


def test_context_is_read_with_the_first_judged_token_and_what_follows_it_later(fake):
    driver = driver_of(fake)
    stream = driver.open()
    assert driver.score(stream, [1, 2, 3], head=None) == []
    (output,) = driver.score_segments(stream, [([4, 5], None), ([6], Side.PROMPT), ([7, 8, 9], None)])
    assert (output.position, output.side, len(output.risk_probs)) == (5, Side.PROMPT, 1)
    driver.score(stream, [10], head=Side.RESPONSE)
    assert fake.asked == [(6, True), (10, True)]


def test_the_same_text_twice_has_all_its_verdicts_again(fake):
    driver, ids = driver_of(fake), random_ids(5 * BLOCK_TOKENS + 3, seed=2)
    first, second = driver.open(), driver.open()
    assert_same(judged(driver, first, ids, Side.RESPONSE), judged(driver, second, ids, Side.RESPONSE))
    assert fake.asked == [(len(ids), True), (len(ids), True), (len(ids), False)]


def test_both_sides_in_one_call_get_their_own_heads(fake):
    driver, ids = driver_of(fake), random_ids(20, seed=3)
    outputs = driver.score_segments(driver.open(), [(ids[:9], Side.PROMPT), (ids[9:], Side.RESPONSE)])
    given_ = {position: opinion for _, position, opinion in opinions_of(outputs)}
    assert_same(given_, full_pass(GUARD, ids, [Side.PROMPT] * 9 + [Side.RESPONSE] * 11))


def test_rows_of_a_beginning_that_was_put_aside_are_not_taken_for_others(fake):
    driver, ids = driver_of(fake), random_ids(50, seed=4)
    fake.num_stale = [16, 3]
    assert_same(judged(driver, driver.open(), ids, Side.RESPONSE), expected(GUARD, ids, 0))


def test_a_text_that_is_always_put_aside_is_an_overload(fake):
    driver = driver_of(fake)
    stream = driver.open()
    fake.num_stale = [4] * 50
    with pytest.raises(OverloadedError, match="put this text aside"):
        driver.score(stream, random_ids(30, seed=5), head=Side.RESPONSE)


@pytest.mark.parametrize("error", [UpstreamError("gone"), OverloadedError("full")])
def test_a_failed_append_leaves_the_stream_as_it_was(fake, error):
    driver, ids = driver_of(fake), random_ids(30, seed=6)
    stream = driver.open()
    given_ = judged(driver, stream, ids[:10], Side.RESPONSE)
    fake.failures = [error]
    with pytest.raises(type(error)):
        driver.score(stream, ids[10:20], head=Side.RESPONSE)
    assert_same(given_ | judged(driver, stream, ids[10:], Side.RESPONSE), expected(GUARD, ids, 0))


def test_a_stream_cannot_grow_past_the_limit(fake):
    driver = driver_of(fake, max_stream_tokens=20)
    stream = driver.open()
    driver.score(stream, [1] * 20, head=Side.RESPONSE)
    with pytest.raises(ContextLengthError, match="at most 20 fit"):
        driver.score(stream, [1], head=None)
    driver.truncate(stream, 19)
    assert len(driver.score(stream, [1], head=Side.RESPONSE)) == 1


@pytest.mark.parametrize("bad", [[-1], [64], [True], ["a"], [1.0], [1, None]])
def test_ids_that_are_none_are_refused_before_anything_is_asked(fake, bad):
    driver = driver_of(fake)
    with pytest.raises(InputError):
        driver.score(driver.open(), bad, head=Side.RESPONSE)
    assert fake.asked == []


@pytest.mark.parametrize("length", [-1, 3, True, 1.0, None])
def test_a_stream_is_cut_only_within_itself(fake, length):
    driver = driver_of(fake)
    stream = driver.open()
    driver.score(stream, [1, 2], head=None)
    with pytest.raises(InputError):
        driver.truncate(stream, length)


def test_nothing_is_asked_for_no_tokens(fake):
    driver = driver_of(fake)
    assert driver.score(driver.open(), [], head=Side.RESPONSE) == []
    assert fake.asked == []


def test_streams_are_limited_and_closing_one_makes_room(fake):
    driver = driver_of(fake, max_streams=2)
    first, _ = driver.open(), driver.open()
    with pytest.raises(OverloadedError):
        driver.open()
    driver.close_stream(first)
    driver.close_stream(first)
    driver.open()
    assert driver.num_streams == 2


def test_a_closed_stream_is_not_read(fake):
    driver = driver_of(fake)
    with driver.temporary_stream() as stream:
        driver.score(stream, [1], head=Side.RESPONSE)
    for call in (lambda: driver.score(stream, [1], head=None), lambda: driver.truncate(stream, 0)):
        with pytest.raises(StreamClosedError):
            call()


def test_who_waits_for_a_stream_that_is_closed_is_told(fake):
    driver = driver_of(fake)
    stream = driver.open()
    read, is_asked, may_answer = fake.read, threading.Event(), threading.Event()

    def held(token_ids, *, reuse):
        is_asked.set()
        assert may_answer.wait(10)
        return read(token_ids, reuse=reuse)

    fake.read = held
    errors: list[Exception] = []

    def append() -> None:
        try:
            driver.score(stream, [1, 2], head=Side.RESPONSE)
        except StreamClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=append)
    thread.start()
    assert is_asked.wait(10)
    driver.close_stream(stream)
    may_answer.set()
    thread.join(10)
    assert len(errors) == 1


def test_a_closed_driver_frees_the_reader_and_ends_its_streams(fake):
    driver = driver_of(fake)
    stream = driver.open()
    driver.close()
    driver.close()
    with pytest.raises(StreamClosedError):
        driver.open()
    assert fake.is_closed
    with pytest.raises(StreamClosedError):
        driver.score(stream, [1], head=Side.RESPONSE)
    driver.close_stream(stream)


def test_rows_of_another_guard_are_refused(fake):
    driver = driver_of(fake)
    read = fake.read
    fake.read = lambda token_ids, *, reuse: type(read(token_ids, reuse=reuse))(
        read(token_ids, reuse=reuse).probs[:, 1:], 0
    )
    with pytest.raises(UpstreamError, match="another shape"):
        driver.score(driver.open(), [1, 2], head=Side.RESPONSE)


def test_many_threads_get_the_verdicts_of_one(fake):
    driver = driver_of(fake, max_streams=16)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            draw, ids = random.Random(number), random_ids(60, seed=number % 4)
            given_: dict[int, Opinion] = {}
            stream = driver.open()
            while len(given_) < len(ids):
                given_ |= judged(driver, stream, ids[len(given_) : len(given_) + draw.randint(1, 9)], Side.RESPONSE)
            assert_same(given_, expected(GUARD, ids, 0))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
