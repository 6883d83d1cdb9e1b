"""Reads of many streams in few calls."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from streamward.distributed.autoscaling import READS, by_reads
from streamward.distributed.batching import ReadBatcher
from streamward.distributed.wire import ReadReply, ReadRequest


class Replica:
    """Answers calls when it is let, with the name of the stream; keeps what it was asked."""

    def __init__(self):
        self.calls = []
        self.may_answer = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.error = None

    def send(self, requests, timeout_s):
        self.calls.append([request.stream for request in requests])
        self.began.release()
        assert self.may_answer.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        return [ReadReply(request.stream) for request in requests]


@pytest.fixture
def replica():
    return Replica()


@pytest.fixture
def pools():
    with ThreadPoolExecutor(8) as senders, ThreadPoolExecutor(128) as readers:
        yield senders, readers


def start(batcher, readers, names, *, timeout_s=10.0):
    return [readers.submit(batcher.read, ReadRequest(name, 0, []), timeout_s=timeout_s) for name in names]


def begin(replica, pools, names="ab"):
    """Put as many calls under way as there may be."""
    batcher = ReadBatcher(replica.send, pool=pools[0])
    busy = []
    for name in names:
        busy += start(batcher, pools[1], name)
        assert replica.began.acquire(timeout=10)
    return batcher, busy


def wait_for(batcher, count):
    while len(batcher._waiting) < count:
        threading.Event().wait(0.001)


def test_a_read_by_itself_is_sent_at_once(replica, pools):
    _, (future,) = begin(replica, pools, "a")
    replica.may_answer.release()
    assert future.result(10).replica == "a"
    assert replica.calls == [["a"]]


def test_what_comes_while_calls_are_under_way_goes_together(replica, pools):
    batcher, busy = begin(replica, pools)
    late = start(batcher, pools[1], "cdefg")
    wait_for(batcher, 5)
    replica.may_answer.release(3)
    assert sorted(future.result(10).replica for future in busy + late) == list("abcdefg")
    assert [sorted(call) for call in replica.calls] == [["a"], ["b"], list("cdefg")]


def test_a_call_is_not_larger_than_it_may_be(replica, pools):
    batcher, busy = begin(replica, pools)
    names = [str(number) for number in range(70)]
    late = start(batcher, pools[1], names)
    wait_for(batcher, 70)
    replica.may_answer.release(4)
    assert sorted(future.result(10).replica for future in busy + late) == sorted(["a", "b", *names])
    assert sorted(map(len, replica.calls)) == [1, 1, 6, 64]


def test_an_error_reaches_those_in_the_call_and_nobody_else(replica, pools):
    batcher, busy = begin(replica, pools)
    late = start(batcher, pools[1], "cd")
    wait_for(batcher, 2)
    replica.may_answer.release()
    done = next(future for future in busy if future.result(10))
    assert replica.began.acquire(timeout=10)  # the call of c and d
    replica.error = RuntimeError("lost")
    replica.may_answer.release(2)
    assert done.result().replica in "ab"
    assert all(str(future.exception(10)) == "lost" for future in late)
    replica.error = None
    replica.may_answer.release()
    assert start(batcher, pools[1], "e")[0].result(10).replica == "e"


def test_who_waits_in_vain_is_told_and_not_sent(replica, pools):
    batcher, busy = begin(replica, pools)
    (late,) = start(batcher, pools[1], "c", timeout_s=0.05)
    assert isinstance(late.exception(10), TimeoutError)
    replica.may_answer.release(2)
    assert all(future.result(10) for future in busy)
    assert replica.calls == [["a"], ["b"]]


def context(reads, *, waiting=0.0):
    metrics = None if reads is None else {READS: reads}
    config = SimpleNamespace(target_ongoing_requests=8.0)
    return SimpleNamespace(
        aggregated_metrics=metrics, total_queued_requests=waiting, target_num_replicas=3, config=config
    )


def test_replicas_follow_the_reads_under_way():
    assert by_reads(context({"one": 12.0, "other": 4.0}, waiting=8.0)) == (3.0, {})
    assert by_reads(context({"one": 0.0})) == (0.0, {})


def test_replicas_stay_while_nothing_is_reported():
    assert by_reads(context(None)) == (3, {})
    assert by_reads(context({})) == (3, {})
