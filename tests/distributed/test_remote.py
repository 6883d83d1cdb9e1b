"""Streams read elsewhere: whatever happens to replicas, the verdicts are those of one engine here."""

import random
import threading

import pytest

from streamward.errors import ContextLengthError, InputError, OverloadedError, StreamClosedError
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Side
from tests.distributed.replica_sets import LocalReplicaSet, assert_same, remote_driver, remote_moderator
from tests.moderation.guards import stream_guard

PROMPT = "hello there"
TEXT = (
    "the thing about “quotes” and émigré 中文字符 👩‍💻 rolling; العربية e\u0301 def f(x):\n    return 'll <|im_end|> "
)


@pytest.fixture
def local():
    with Moderator(stream_guard(), policy=Policy.load("strict")) as moderator:
        yield moderator


@pytest.mark.parametrize("seed", range(8))
def test_replicas_that_die_at_random_do_not_change_verdicts(local, seed):
    rng = random.Random(seed)
    replica_set = LocalReplicaSet(2)

    def maybe_kill(name: str) -> None:
        if rng.random() < 0.25:  # after the tokens were judged, before anybody hears of it
            replica_set.kill(name)
            replica_set.start()

    replica_set.before_reply = maybe_kill
    data = (TEXT * 2).encode()
    with (
        remote_moderator(replica_set) as moderator,
        moderator.stream(prompt=PROMPT) as stream,
        local.stream(prompt=PROMPT) as here,
    ):
        while data:
            size = rng.randint(1, 9)
            found, expected = stream.feed(data[:size]), here.feed(data[:size])
            assert [event.decision for event in found] == [event.decision for event in expected]
            assert_same([event.verdict for event in found], [event.verdict for event in expected])
            assert stream.releasable_chars == here.releasable_chars
            data = data[size:]
            if rng.random() < 0.2:  # between two pieces
                replica_set.kill(rng.choice(sorted(replica_set.replicas)))
                replica_set.start()
        found, expected = stream.finish(), here.finish()
    assert found.decision == expected.decision
    assert_same(found.prompt.verdicts, expected.prompt.verdicts)
    assert_same(found.response.verdicts, expected.response.verdicts)


def test_a_stream_stays_where_its_cache_is():
    replica_set = LocalReplicaSet(3)
    with remote_moderator(replica_set) as moderator, moderator.stream(prompt=PROMPT) as stream:
        for _ in range(20):
            stream.feed("the ")
    assert len({name for name, _ in replica_set.requests}) == 1
    assert sum(len(ids) for _, request in replica_set.requests for ids, _ in request.segments) < 150  # nothing twice


def test_a_stream_that_moves_never_meets_what_it_left_behind():
    """Back at a replica that has an older copy with other tokens in it."""
    replica_set = LocalReplicaSet(2)
    driver = remote_driver(replica_set)
    ids = [list(range(start, start + 8)) for start in (0, 20, 40, 60)]
    stream_id = driver.open()
    driver.score(stream_id, ids[0] + ids[1], head=Side.RESPONSE)
    (first,) = [name for name, replica in replica_set.replicas.items() if replica.num_streams]
    away = replica_set.replicas.pop(first)  # drained: it runs on, but nobody is sent there
    driver.truncate(stream_id, 8)
    driver.score(stream_id, ids[2], head=Side.RESPONSE)
    replica_set.kill(next(iter(replica_set.replicas)))
    replica_set.replicas[first] = away
    (output,) = driver.score(stream_id, ids[3], head=Side.RESPONSE)
    assert driver.num_handovers == 2
    whole = remote_driver(LocalReplicaSet(1))
    (expected,) = whole.score(whole.open(), ids[0] + ids[2] + ids[3], head=Side.RESPONSE)
    assert output.position == 16
    assert abs(output.risk_probs - expected.risk_probs[16:]).max() < 1e-5


def test_a_stream_nobody_asked_for_is_forgotten_and_read_again(local):
    replica_set = LocalReplicaSet(1)
    with remote_moderator(replica_set) as moderator, moderator.stream(prompt=PROMPT) as stream:
        stream.feed("the thing ")
        replica_set.clock.wait(61)
        moderator.moderate(prompt="somebody else")
        assert replica_set.num_streams == 0
        stream.feed("about it")
        found = stream.finish()
    assert_same(found.response.verdicts, local.moderate(prompt=PROMPT, response="the thing about it").response.verdicts)


def test_without_any_replica_nothing_is_judged_and_the_stream_can_go_on_later(local):
    replica_set = LocalReplicaSet(1)
    with remote_moderator(replica_set) as moderator, moderator.stream(prompt=PROMPT) as stream:
        stream.feed("the ")
        checked = stream.releasable_chars
        replica_set.kill("replica-1")
        with pytest.raises(OverloadedError):
            stream.feed("thing about it")
        assert stream.releasable_chars == checked
        replica_set.start()
        stream.feed("")
        found = stream.finish()
    expected = local.moderate(prompt=PROMPT, response="the thing about it")
    assert_same(found.response.verdicts, expected.response.verdicts)


def test_replicas_that_die_whenever_they_are_asked_are_given_up_in_time():
    replica_set = LocalReplicaSet(1)

    def die(name: str) -> None:
        replica_set.kill(name)
        replica_set.start()

    replica_set.before_reply = die
    with remote_moderator(replica_set) as moderator, pytest.raises(OverloadedError, match="within 10 s"):
        moderator.moderate(prompt=PROMPT)
    assert len(replica_set.requests) < 30  # it does not hammer


def test_what_a_replica_refuses_leaves_the_stream_as_it_was():
    replica_set = LocalReplicaSet(1)
    driver = remote_driver(replica_set)
    stream_id = driver.open()
    driver.score(stream_id, [1, 2, 3], head=Side.RESPONSE)
    with pytest.raises(InputError, match="out of range"):
        driver.score(stream_id, [4, 10**6], head=Side.RESPONSE)
    (output,) = driver.score(stream_id, [4], head=Side.RESPONSE)
    assert output.position == 3


def test_a_stream_refused_at_the_start_leaves_nothing_at_the_replica():
    replica_set = LocalReplicaSet(1)
    driver = remote_driver(replica_set)
    with pytest.raises(InputError), driver.temporary_stream() as stream_id:
        driver.score(stream_id, [10**6], head=Side.RESPONSE)
    assert replica_set.num_streams == 0


def test_full_replicas_are_overloaded():
    replica_set = LocalReplicaSet(1, max_streams=1)
    driver = remote_driver(replica_set)
    driver.score(driver.open(), [1], head=None)
    with pytest.raises(OverloadedError, match="max_streams"):
        driver.score(driver.open(), [1], head=None)


def test_longer_than_the_guard_reads_is_refused_here():
    replica_set = LocalReplicaSet(1, max_stream_tokens=200)
    driver = remote_driver(replica_set)
    stream_id = driver.open()
    driver.score(stream_id, [1] * 150, head=None)
    with pytest.raises(ContextLengthError, match="201 tokens; at most 200"):
        driver.score(stream_id, [1] * 51, head=None)


def test_long_texts_slide_over_windows_as_they_do_here():
    replica_set = LocalReplicaSet(2, window_tokens=96)
    with (
        remote_moderator(replica_set) as moderator,
        Moderator(stream_guard(window_tokens=96), policy=Policy.load("strict")) as here,
    ):
        found = moderator.moderate(prompt=PROMPT * 20, response=TEXT * 6)
        expected = here.moderate(prompt=PROMPT * 20, response=TEXT * 6)
    assert found.response.windows == expected.response.windows > 1
    assert_same(found.prompt.verdicts, expected.prompt.verdicts)
    assert_same(found.response.verdicts, expected.response.verdicts)


def test_closing_ends_the_streams_and_lets_the_replicas_go():
    replica_set = LocalReplicaSet(1)
    driver = remote_driver(replica_set)
    stream_id = driver.open()
    driver.score(stream_id, [1, 2], head=None)
    driver.close()
    with pytest.raises(StreamClosedError):
        driver.open()
    driver.close_stream(stream_id)
    driver.close()
    assert (replica_set.is_closed, replica_set.num_streams, driver.num_streams) == (True, 0, 0)
    with pytest.raises(StreamClosedError):
        driver.score(stream_id, [1], head=None)


def test_many_threads_get_the_verdicts_of_one(local):
    replica_set = LocalReplicaSet(2)
    texts = [TEXT[start : start + 40] for start in range(12)]
    found: dict[str, object] = {}

    def judge(text: str) -> None:
        with moderator.stream(prompt=PROMPT) as stream:
            for character in text:
                stream.feed(character)
            found[text] = stream.finish().response

    with remote_moderator(replica_set) as moderator:
        threads = [threading.Thread(target=judge, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for text in texts:
        assert_same(found[text].verdicts, local.moderate(prompt=PROMPT, response=text).response.verdicts)
    assert replica_set.num_streams == 0
