"""Shards judged, lost and found again: without Ray, which only says who judges which."""

import json
import random

import pyarrow.parquet
import pytest

from streamward.distributed.judging import Judging, ShardJudge, WorkerError
from streamward.distributed.output import check_output, write_output
from streamward.distributed.parts import PartCounts, Parts
from streamward.distributed.source import JsonlSource
from streamward.errors import InputError
from streamward.moderation.moderator import Moderator
from streamward.moderation.rows import answer_json, judge_row
from streamward.policy import Policy
from tests.moderation.guards import stream_guard

TEXT = "the thing about all the other things, in English and in chinese 中文, rolling"
POLICY = Policy.parse(
    {
        "name": "sharp",
        "prompt": {"unsafe": "allow", "controversial": "allow"},
        "response": {"controversial": "allow", "thresholds": {"unsafe": 0.55}},
    },
    source="test",
)
IDENTITY = {"input": "abc", "guard": "tiny"}


def load(judging):
    return Moderator(stream_guard(), policy=judging.policy, max_chars=1000)


@pytest.fixture
def source(tmp_path):
    """47 rows: prompts, responses, an unreadable one, one that is too long, a blank line."""
    rows = [{"id": n, "prompt": "hello", **({"response": TEXT[n : n + 9]} if n % 3 else {})} for n in range(44)]
    lines = [json.dumps(row) for row in rows]
    lines[5:5] = ["{broken", "", json.dumps({"prompt": "x" * 1001})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    return JsonlSource(tmp_path / "in.jsonl")


@pytest.fixture
def judge(tmp_path, source):
    parts = tmp_path / "out.jsonl.parts"
    parts.mkdir()
    judging = Judging(
        source=tmp_path / "in.jsonl", parts=parts, guard="tiny", policy=POLICY, threads=1, has_verdicts=False
    )
    worker = ShardJudge(judging, load=load)
    yield worker
    worker.close()


def expected(source):
    with load(Judging(source="", parts="", guard="", policy=POLICY, threads=1, has_verdicts=False)) as guard:
        return [
            answer_json(row, judge_row(guard, row)) for shard in source.plan(1000).shards for row in source.read(shard)
        ]


def test_shards_judged_in_any_order_give_the_rows_in_the_inputs_order(tmp_path, source, judge):
    shards = list(source.plan(7).shards)
    random.Random(1).shuffle(shards)
    for shard in shards:
        judge.judge(shard)
    parts = Parts(tmp_path / "out.jsonl.parts")
    counts = write_output(tmp_path / "out.jsonl", parts, source.plan(7).shards, has_verdicts=False)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    wanted = json.loads(json.dumps(expected(source)))
    assert rows == wanted
    blocked = sum(row["decision"]["action"] == "block" for row in wanted if "error" not in row)
    assert counts == PartCounts(rows=46, blocked=blocked, bad=2, failed=0)
    assert 0 < blocked < 44


def test_parquet_has_the_same_columns(tmp_path, source, judge):
    shards = source.plan(7).shards
    for shard in shards:
        judge.judge(shard)
    write_output(tmp_path / "out.parquet", Parts(tmp_path / "out.jsonl.parts"), shards, has_verdicts=False)
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for row, wanted in zip(rows, json.loads(json.dumps(expected(source))), strict=True):
        wanted = {**wanted, "id": str(wanted["id"])} if "id" in wanted else wanted
        assert {name: value for name, value in row.items() if value is not None} == {
            name: value for name, value in wanted.items() if value is not None
        }


def test_verdicts_of_every_token_go_into_parquet_too(tmp_path, source):
    parts = tmp_path / "parts"
    parts.mkdir()
    judging = Judging(source=tmp_path / "in.jsonl", parts=parts, guard="", policy=POLICY, threads=1, has_verdicts=True)
    worker = ShardJudge(judging, load=load)
    (first, *_) = source.plan(3).shards
    worker.judge(first)
    worker.close()
    write_output(tmp_path / "out.parquet", Parts(parts), [first], has_verdicts=True)
    row = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()[1]
    verdicts = row["response"]["verdicts"]
    assert [verdict["position"] for verdict in verdicts] == list(range(len(verdicts)))
    assert verdicts[-1]["span"][1] == 9


def test_a_finished_shard_is_not_judged_again(tmp_path, source, judge):
    shard = source.plan(7).shards[0]
    judge.judge(shard)
    (part,) = (tmp_path / "out.jsonl.parts").glob("*.part")
    part.write_text("as it was")
    judge.judge(shard)
    assert part.read_text() == "as it was"


def test_what_a_killed_worker_left_is_no_part_of_the_job(tmp_path, source, judge):
    parts = Parts(tmp_path / "out.jsonl.parts")
    shards = source.plan(7).shards
    (tmp_path / "out.jsonl.parts" / ".0123").write_text('{"rows": 7')  # killed while it wrote
    with parts.claimed(IDENTITY):
        assert parts.finished(shards) == set()
        judge.judge(shards[2])
        assert parts.finished(shards) == {shards[2]}
        assert not (tmp_path / "out.jsonl.parts" / ".0123").exists()


def test_rows_that_kill_every_worker_end_the_job(tmp_path, source, judge):
    parts = Parts(tmp_path / "out.jsonl.parts")
    shard = source.plan(7).shards[1]
    for _ in range(3):
        parts.begin(shard)  # and is killed
    with pytest.raises(WorkerError, match="rows 8 to 14"):
        judge.judge(shard)
    with parts.claimed(IDENTITY):
        pass
    judge.judge(shard)  # whoever runs the job again has a reason to


def test_a_folder_of_another_job_is_refused(tmp_path):
    parts = Parts(tmp_path / "parts")
    with parts.claimed(IDENTITY):
        pass
    with parts.claimed(IDENTITY):
        pass
    with pytest.raises(InputError, match="another guard"), parts.claimed({**IDENTITY, "guard": "other"}):
        pass
    (tmp_path / "parts" / "job.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"), parts.claimed(IDENTITY):
        pass


def test_two_runs_of_a_job_do_not_meet(tmp_path):
    parts = Parts(tmp_path / "parts")
    with (
        parts.claimed(IDENTITY),
        pytest.raises(InputError, match="another run"),
        Parts(tmp_path / "parts").claimed(IDENTITY),
    ):
        pass


def test_an_output_that_fails_leaves_nothing(tmp_path, source):
    (tmp_path / "parts").mkdir()
    with pytest.raises(FileNotFoundError):
        write_output(tmp_path / "out.jsonl", Parts(tmp_path / "parts"), source.plan(7).shards, has_verdicts=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "parts"]


@pytest.mark.parametrize(("name", "problem"), [("out.csv", "must end with"), ("no/out.jsonl", "does not exist")])
def test_outputs_that_cannot_be_written_are_refused(tmp_path, name, problem):
    with pytest.raises(InputError, match=problem):
        check_output(tmp_path / name)
