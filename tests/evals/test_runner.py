"""Runs are resumable, ask each text once, and never turn a failure into a label."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from streamward.errors import InputError
from streamward.evals.cache import PredictionCache, row_key
from streamward.evals.predictions import Flag, Prediction, TokenRisk, decode, encode
from streamward.evals.runner import MAX_FAILURES, failure_codes, is_failed
from streamward.evals.sets import EvalSet
from streamward.schema import Category, Side
from tests.evals.rows import GREY, SAFE, UNSAFE, FakeGuard, always, row, run_on, said


def some_rows(count: int = 10) -> EvalSet:
    return EvalSet("own", Side.PROMPT, tuple(row(n, UNSAFE if n % 2 else SAFE) for n in range(count)))


def test_predictions_survive_the_way_to_disk_and_back():
    whole = Prediction(
        "7",
        GREY,
        {SAFE: 0.25, GREY: 0.5, UNSAFE: 0.25},
        category=Category.PII,
        refusal=False,
        flagged_strict=True,
        flagged_loose=False,
        flagged=True,
        flag=Flag(3, 14),
        switches=2,
        tokens=(TokenRisk(0, 4, 0.25, 0.5),),
        latency_ms=1.5,
        cost_ms=0.5,
        num_tokens=9,
    )
    assert decode(json.loads(json.dumps(encode(whole)))) == whole
    failed = Prediction("8", error="upstream_error")
    assert decode(encode(failed)) == failed


def test_a_second_run_asks_nothing(tmp_path):
    guard = always(UNSAFE)
    first = run_on([some_rows()], guard, tmp_path)
    again = always(UNSAFE)
    second = run_on([some_rows()], again, tmp_path)
    assert again.asked == []
    assert second.sets == first.sets


def test_another_guard_is_asked_anew(tmp_path):
    run_on([some_rows()], always(UNSAFE), tmp_path)
    other = always(SAFE)
    run_on([some_rows()], other, tmp_path)
    assert len(other.asked) >= 10


def test_a_text_that_repeats_is_asked_once_and_each_row_keeps_its_id(tmp_path):
    rows = tuple(row(n, SAFE, text="the same") for n in range(5))
    found = run_on([EvalSet("own", Side.PROMPT, rows)], always(SAFE), tmp_path)
    assert [each.row_id for each in found.sets[0].predictions] == ["0", "1", "2", "3", "4"]
    (kept,) = tmp_path.rglob("own*.jsonl")
    assert kept.read_text().count("\n") == 1


def test_the_context_of_a_response_is_part_of_its_identity():
    one = row(0, side=Side.RESPONSE, text="yes", prompt="May I?")
    assert row_key(one) != row_key(row(0, side=Side.RESPONSE, text="yes", prompt="Must I?"))
    assert row_key(one) != row_key(row(0, text="yes"))


def test_rows_that_failed_are_asked_again_by_the_next_run(tmp_path):
    def fail(each):
        return Prediction(each.id, error="upstream_error") if each.id == "3" else said(0, SAFE)

    first = run_on([some_rows()], FakeGuard(fail), tmp_path)
    assert failure_codes(first) == {"upstream_error": 1}
    healthy = FakeGuard(lambda each: said(0, SAFE))
    second = run_on([some_rows()], healthy, tmp_path)
    assert healthy.asked == ["text 3"]
    assert failure_codes(second) == {}


def test_a_guard_that_is_gone_is_not_asked_for_ever(tmp_path):
    guard = FakeGuard(lambda each: Prediction(each.id, error="upstream_error"))
    found = run_on([some_rows(3 * MAX_FAILURES)], guard, tmp_path)
    assert len(guard.asked) < 2 * MAX_FAILURES
    assert is_failed(found)
    assert sum(failure_codes(found).values()) == 3 * MAX_FAILURES
    healthy = FakeGuard(lambda each: said(0, SAFE))
    assert failure_codes(run_on([some_rows(3 * MAX_FAILURES)], healthy, tmp_path)) == {}


def test_a_line_cut_off_by_a_kill_is_judged_again(tmp_path):
    path = tmp_path / "own.jsonl"
    with PredictionCache(path) as cache:
        cache.add({row_key(row(0)): said(0, SAFE), row_key(row(1)): said(1, SAFE)})
    path.write_bytes(path.read_bytes()[:-9])
    with PredictionCache(path) as cache:
        assert set(cache.done([row(0), row(1)])) == {row_key(row(0))}
        cache.add({row_key(row(1)): said(1, UNSAFE)})
    with PredictionCache(path) as cache:
        assert cache.done([row(1)])[row_key(row(1))].risk_level is UNSAFE


def test_damage_within_the_file_is_told_and_not_skipped(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"row_id": "a"}\n\x00\x01\n{"row_id": "b"}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        PredictionCache(path)


_SLOW_RUN = """
import sys, time
from pathlib import Path
from tests.evals.rows import FakeGuard, run_on, said, SAFE
from tests.evals.test_runner import some_rows

def judge(each):
    time.sleep(0.01)
    return said(0, SAFE)

run_on([some_rows(2000)], FakeGuard(judge), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_RUN, str(tmp_path)], env={**os.environ, "PYTHONPATH": "src:."}
    )
    deadline = time.monotonic() + 60
    while not (done := [path for path in tmp_path.rglob("own*.jsonl") if path.stat().st_size > 2000]):
        assert time.monotonic() < deadline and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_done = done[0].read_text().count("\n")
    assert 0 < num_done < 2000
    guard = FakeGuard(lambda each: said(0, SAFE))
    found = run_on([some_rows(2000)], guard, tmp_path)
    assert len(set(guard.asked)) <= 2000 - num_done + 40  # and a few rows for the latency of single rows
    assert len(found.sets[0].predictions) == 2000
    assert failure_codes(found) == {}
