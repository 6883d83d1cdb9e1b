"""`streamward moderate --ray` on a real Ray: workers and the command itself are killed, and nothing is lost."""

import json

import pytest

from streamward.distributed.judging import Judging, ShardJudge
from streamward.distributed.output import write_output
from streamward.distributed.parts import Parts
from streamward.distributed.source import open_source
from streamward.policy import Policy
from tests.distributed.checkpoints import tiny_checkpoint
from tests.distributed.processes import descendants, kill, start, wait_until

pytest.importorskip("ray", reason="needs the extra ray: make test-ray")
pytestmark = pytest.mark.ray

TEXT = "the thing about all the other things, in English and in chinese 中文, rolling"
POLICY = """\
name = "sharp"
[prompt]
unsafe = "allow"
controversial = "allow"
[response]
controversial = "allow"
[response.thresholds]
unsafe = 0.55
"""


def write_rows(path, num_rows):
    with path.open("w", encoding="utf-8") as file:
        for n in range(num_rows):
            start_at = n % 60
            row = {"id": n, "prompt": f"hello {n}", "response": TEXT[start_at : start_at + 1 + n % 17]}
            file.write(json.dumps({name: value for name, value in row.items() if n % 3 or name != "response"}) + "\n")
            if n % 101 == 0:
                file.write("{no json\n\n")


def judged_at_once(folder, guard, *, shard_rows):
    """What one worker writes that nobody interrupts."""
    (folder / "whole").mkdir()
    judging = Judging(
        source=folder / "in.jsonl",
        parts=folder / "whole",
        guard=str(guard),
        policy=Policy.load(str(folder / "policy.toml")),
        threads=1,
        has_verdicts=False,
    )
    worker = ShardJudge(judging)
    shards = open_source(judging.source).plan(shard_rows).shards
    for shard in shards:
        worker.judge(shard)
    worker.close()
    write_output(folder / "whole.jsonl", Parts(judging.parts), shards, has_verdicts=False)
    return (folder / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(("num_rows", "shard_rows"), [(300, 12), pytest.param(100_000, 500, marks=pytest.mark.slow)])
def test_a_job_killed_twice_ends_like_one_that_was_not(tmp_path, num_rows, shard_rows):
    guard = tiny_checkpoint(tmp_path / "guard")
    (tmp_path / "policy.toml").write_text(POLICY)
    write_rows(tmp_path / "in.jsonl", num_rows)
    options = ["--guard", str(guard), "--policy", str(tmp_path / "policy.toml"), "--workers", "2"]
    options += ["--shard-rows", str(shard_rows)]

    command = ["moderate", "--ray", str(tmp_path / "in.jsonl"), str(tmp_path / "killed.jsonl"), *options]
    parts = tmp_path / "killed.jsonl.parts"
    log = tmp_path / "log.txt"

    def wait_for_parts(number, process):
        wait_until(lambda: len(list(parts.glob("*.part"))) >= number, process)

    for first in (2, 10):
        process = start(command, log=log)
        wait_for_parts(first, process)
        kill(descendants(process.pid, title="ray::MapWorker")[0])
        wait_for_parts(first + 4, process)
        kill(process.pid)
        process.wait()
    assert not (tmp_path / "killed.jsonl").exists()
    assert start(command, log=log).wait() == 2  # some lines are no JSON
    killed = (tmp_path / "killed.jsonl").read_bytes()
    assert killed == judged_at_once(tmp_path, guard, shard_rows=shard_rows)
    rows = [json.loads(line) for line in killed.splitlines()]
    assert len({row["line"] for row in rows}) == len(rows) == num_rows + -(-num_rows // 101)
    assert [row["id"] for row in rows if "id" in row] == list(range(num_rows))
    assert {row["decision"]["action"] for row in rows if "id" in row} == {"allow", "block"}
    assert not parts.exists()
    assert f"judged {num_rows + 2 * -(-num_rows // 101)} of" in log.read_text()  # blank lines among them
    assert start(command, log=log).wait() == 2
    assert "exists; remove it" in log.read_text()
