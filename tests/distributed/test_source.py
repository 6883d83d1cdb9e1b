"""Files of rows in shards: every row once, whatever the file holds."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from streamward.distributed.source import JsonlSource, ParquetSource, open_source
from streamward.errors import InputError

LINES = [
    b'{"prompt": "a", "id": "x"}',
    b"",
    b'{"response": "b", "other": 1}',
    b"no json",
    b"\xff\xfe\x00",
    b'{"prompt": "\xc3',  # half a character
    "\u2028{}".encode(),  # a line end for str.splitlines, not for a file
    b"[1]",
    b'{"messages": [{"role": "user", "content": "c"}]}',
]


def jsonl(folder, *, end=b"\n"):
    path = folder / "in.jsonl"
    path.write_bytes(b"\n".join(LINES) + end)
    return path


@pytest.mark.parametrize("end", [b"\n", b"", b"\n\n"])
@pytest.mark.parametrize("shard_rows", [1, 2, 4, 100])
def test_shards_have_every_line_once_with_its_number(tmp_path, shard_rows, end):
    source = JsonlSource(jsonl(tmp_path, end=end))
    plan = source.plan(shard_rows)
    rows = [row for shard in plan.shards for row in source.read(shard)]
    assert [row.label["line"] for row in rows] == [1, 3, 4, 5, 6, 7, 8, 9]
    assert [row.problem is None for row in rows] == [True, True, False, False, False, False, False, True]
    assert rows[0].label == {"id": "x", "line": 1}
    assert rows[1].item == {"response": "b"}
    assert all(shard.num_rows <= shard_rows for shard in plan.shards)
    assert plan.num_rows == len(LINES) + (end == b"\n\n")


def test_shards_can_be_read_in_any_order(tmp_path):
    source = JsonlSource(jsonl(tmp_path))
    shards = source.plan(2).shards
    forward = {shard: list(source.read(shard)) for shard in shards}
    assert {shard: list(source.read(shard)) for shard in reversed(shards)} == forward


def test_the_digest_tells_contents_apart(tmp_path):
    path = jsonl(tmp_path)
    source = JsonlSource(path)
    before = source.plan(3).digest
    assert source.plan(5).digest == before
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"A"'))
    assert source.plan(3).digest != before


def test_an_empty_file_has_no_shards(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"")
    assert JsonlSource(tmp_path / "in.jsonl").plan(10).shards == []


def test_very_long_lines_make_shards_shorter(tmp_path, monkeypatch):
    monkeypatch.setattr("streamward.distributed.source._MAX_SHARD_BYTES", 100)
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "%s"}\n' % (b"x" * 80) * 6)
    assert [shard.num_rows for shard in JsonlSource(tmp_path / "in.jsonl").plan(100).shards] == [2, 2, 2]


TURN = {"role": "user", "content": "c", "reasoning": None}


def parquet(folder, *, row_group_size=3):
    rows = [{"id": n, "prompt": None if n == 4 else f"p{n}", "messages": [TURN] if n == 4 else None} for n in range(8)]
    path = folder / "in.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


@pytest.mark.parametrize("shard_rows", [1, 2, 3, 100])
@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_parquet_has_every_row_once_whatever_its_row_groups(tmp_path, shard_rows, row_group_size):
    source = ParquetSource(parquet(tmp_path, row_group_size=row_group_size))
    plan = source.plan(shard_rows)
    rows = [row for shard in plan.shards for row in source.read(shard)]
    assert [row.label for row in rows] == [{"id": n, "line": n + 1} for n in range(8)]
    assert rows[4].item == {"messages": [{"role": "user", "content": "c"}]}
    assert rows[5].item == {"prompt": "p5"}


def test_messages_may_be_json_in_a_string(tmp_path):
    path = tmp_path / "in.parquet"
    table = pyarrow.table({"messages": [json.dumps([{"role": "user", "content": "c"}]), "no json", None]})
    pyarrow.parquet.write_table(table, path)
    source = ParquetSource(path)
    rows = list(source.read(source.plan(10).shards[0]))
    assert [row.item for row in rows] == [
        {"messages": [{"role": "user", "content": "c"}]},
        {"messages": "no json"},
        {},
    ]


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet", "in.csv", "damaged.parquet", "other.parquet"])
def test_files_that_cannot_be_judged_are_refused(tmp_path, name):
    (tmp_path / "in.csv").write_bytes(b"a,b")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 nothing PAR1")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=name):
        open_source(tmp_path / name).plan(10)
