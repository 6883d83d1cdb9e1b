"""A stream that is chunked, batched or truncated gets the verdicts of one full pass."""

import random
from itertools import pairwise

import numpy as np
import pytest

from streamward.model.guard_model import GuardModel
from streamward.schema import Side
from tests.engine.harness import MAX_POSITIONS, TOLERANCE, Judge, full_pass, make_engine, random_guard, random_ids


@pytest.fixture(params=[True, False], ids=["qwen3", "llama"])
def guard(request: pytest.FixtureRequest) -> GuardModel:
    return random_guard(has_qk_norm=request.param)


def random_cuts(length: int, *, seed: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    inner = sorted(rng.sample(range(1, length), rng.randint(0, length - 1)))
    return list(pairwise([0, *inner, length]))


def test_the_reference_notices_one_changed_token_far_back(guard: GuardModel) -> None:
    ids = random_ids(60, seed=1)
    changed = [(ids[0] + 1) % 64, *ids[1:]]
    sides = [Side.RESPONSE] * 60
    before, after = full_pass(guard, ids, sides)[59], full_pass(guard, changed, sides)[59]
    assert float((before.risk - after.risk).abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("seed", range(12))
def test_random_cuts_do_not_change_verdicts(guard: GuardModel, seed: int) -> None:
    ids = random_ids(70, seed=seed)
    judge = Judge(make_engine(guard))
    stream = judge.open()
    for start, end in random_cuts(len(ids), seed=seed):
        judge.feed(stream, ids[start:end])
    judge.check()


def test_token_by_token_equals_all_at_once_up_to_the_last_position(guard: GuardModel) -> None:
    ids = random_ids(MAX_POSITIONS, seed=3)
    judge = Judge(make_engine(guard))
    one_by_one, at_once = judge.open(), judge.open()
    for token in ids:
        judge.feed(one_by_one, [token])
    judge.feed(at_once, ids)
    judge.check()


@pytest.mark.parametrize("page_tokens", [1, 3, 64, 500])
def test_the_page_size_does_not_change_verdicts(guard: GuardModel, page_tokens: int) -> None:
    judge = Judge(make_engine(guard, page_tokens=page_tokens))
    stream = judge.open()
    for start, end in random_cuts(70, seed=page_tokens):
        judge.feed(stream, random_ids(70, seed=5)[start:end])
    judge.check()


def test_a_chunk_longer_than_one_part_of_attention_is_judged_as_one_pass() -> None:
    guard = random_guard(max_positions=400)
    judge = Judge(make_engine(guard))
    stream = judge.open()
    judge.feed(stream, random_ids(20, seed=1))
    judge.feed(stream, random_ids(333, seed=2))
    judge.check()


@pytest.mark.parametrize("max_batch_tokens", [5, 16, 4096])
def test_streams_batched_together_do_not_touch_each_other(guard: GuardModel, max_batch_tokens: int) -> None:
    rng = random.Random(max_batch_tokens)
    judge = Judge(make_engine(guard, max_batch_tokens=max_batch_tokens))
    streams = [judge.open() for _ in range(12)]
    for round_number in range(20):
        for stream in rng.sample(streams, rng.randint(1, len(streams))):
            room = 90 - len(judge.streams[stream].ids)
            count = min(rng.choice([1, 1, 2, 5, 17]), room)
            judge.extend(stream, random_ids(max(count, 1), seed=1000 * round_number + stream))
        judge.step()
    judge.check()


def test_interleaved_tokens_land_on_pages_that_are_not_side_by_side(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard, page_tokens=4, num_pages=48))
    streams = [judge.open() for _ in range(3)]
    for position in range(60):
        for stream in streams:
            judge.extend(stream, random_ids(1, seed=100 * stream + position))
        judge.drain()
    held = [stream.pages for stream in judge.engine._streams.values()]
    assert any(later != earlier + 1 for pages in held for earlier, later in pairwise(pages))
    judge.check()


def test_scattered_pages_serve_chunks_longer_than_a_page(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard, page_tokens=4, num_pages=16))
    holes = [judge.open() for _ in range(16)]
    for stream in holes:
        judge.feed(stream, random_ids(3, seed=stream))
    for stream in holes[::2]:
        judge.close(stream)
    stream = judge.open()
    judge.feed(stream, random_ids(11, seed=1))
    judge.feed(stream, random_ids(20, seed=2))
    judge.check()


def test_context_is_read_but_not_judged(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard))
    stream = judge.open()
    judge.extend(stream, random_ids(20, seed=1), head=None)
    judge.extend(stream, random_ids(9, seed=2), head=Side.RESPONSE)
    judge.extend(stream, random_ids(4, seed=3), head=None)
    judge.check()
    assert sorted(judge.streams[stream].given) == list(range(20, 29))


def test_tokens_that_are_only_context_give_no_output(guard: GuardModel) -> None:
    engine = make_engine(guard)
    stream = engine.open()
    engine.extend(stream, [1, 2, 3], head=None)
    assert engine.step() == []
    assert engine.num_queued(stream) == 0


def test_each_side_is_read_with_its_own_heads_in_one_step(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard))
    first, second = judge.open(), judge.open()
    for stream in (first, second):
        judge.extend(stream, random_ids(6, seed=stream), head=None)
        judge.extend(stream, random_ids(1, seed=stream + 9), head=Side.PROMPT)
        judge.extend(stream, random_ids(5, seed=stream + 5), head=Side.RESPONSE)
        judge.extend(stream, random_ids(2, seed=stream + 7), head=Side.PROMPT)
    outputs = judge.step()
    expected = [(6, Side.PROMPT, 1), (7, Side.RESPONSE, 5), (12, Side.PROMPT, 2)]
    assert [(each.stream_id, each.position, each.side, len(each.risk_probs)) for each in outputs] == [
        (stream, *row) for stream in (first, second) for row in expected
    ]
    assert {each.side: each.category_probs.shape[1] for each in outputs} == {Side.PROMPT: 9, Side.RESPONSE: 8}
    judge.check()


def test_probabilities_are_float32_and_sum_to_one(guard: GuardModel) -> None:
    engine = make_engine(guard)
    stream = engine.open()
    engine.extend(stream, random_ids(5, seed=1), head=Side.PROMPT)
    (output,) = engine.step()
    for probs in (output.risk_probs, output.category_probs):
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs.sum(axis=1), np.ones(5), rtol=1e-6)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 16, 23, 24, 29, 30])
def test_truncated_and_re_extended_equals_one_pass(guard: GuardModel, kept: int) -> None:
    judge = Judge(make_engine(guard))
    stream = judge.open()
    judge.feed(stream, random_ids(30, seed=1))
    judge.truncate(stream, kept)
    judge.feed(stream, random_ids(25, seed=2))
    judge.check()


def test_truncating_again_and_again_equals_one_pass(guard: GuardModel) -> None:
    rng = random.Random(4)
    judge = Judge(make_engine(guard, page_tokens=4))
    stream = judge.open()
    for turn in range(60):
        judge.feed(stream, random_ids(rng.randint(1, 9), seed=turn))
        judge.truncate(stream, rng.randint(max(0, len(judge.streams[stream].ids) - 12), len(judge.streams[stream].ids)))
    judge.check()


@pytest.mark.parametrize("kept", [0, 1, 15])
def test_tokens_never_read_can_be_truncated(guard: GuardModel, kept: int) -> None:
    judge = Judge(make_engine(guard))
    stream = judge.open()
    judge.extend(stream, random_ids(30, seed=1))
    judge.truncate(stream, kept)
    assert judge.engine.num_queued(stream) == kept
    judge.drain()
    judge.feed(stream, random_ids(20, seed=3))
    judge.check()


@pytest.mark.parametrize(("kept", "still_queued"), [(25, 15), (11, 1), (10, 0), (3, 0), (0, 0)])
def test_queued_tokens_can_be_truncated(guard: GuardModel, kept: int, still_queued: int) -> None:
    judge = Judge(make_engine(guard))
    stream = judge.open()
    judge.feed(stream, random_ids(10, seed=1))
    judge.extend(stream, random_ids(30, seed=2))
    judge.truncate(stream, kept)
    assert judge.engine.num_queued(stream) == still_queued
    judge.drain()
    judge.feed(stream, random_ids(20, seed=3))
    judge.check()


def test_tokens_half_read_can_be_truncated(guard: GuardModel) -> None:
    judge = Judge(make_engine(guard, max_batch_tokens=10))
    stream = judge.open()
    judge.extend(stream, random_ids(40, seed=1))
    judge.step()
    judge.truncate(stream, 33)
    judge.step()
    judge.truncate(stream, 15)
    judge.feed(stream, random_ids(30, seed=2))
    judge.check()


def test_a_truncated_queue_keeps_room_for_what_is_left(guard: GuardModel) -> None:
    engine = make_engine(guard, num_pages=4)
    stream = engine.open()
    engine.extend(stream, random_ids(32, seed=1), head=Side.RESPONSE)
    engine.truncate(stream, 17)
    assert engine.num_free_pages == 1
    assert [len(output.risk_probs) for output in engine.step()] == [17]
