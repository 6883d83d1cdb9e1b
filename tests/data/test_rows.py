import gzip
import json
from pathlib import Path

import pytest

from streamward.data.rows import Row, read_rows, write_rows
from streamward.errors import InputError

ROWS: list[Row] = [{"prompt": "Grüße", "native": {"kind": "prompt", "own": [1, 2]}}, {"prompt": "b", "response": None}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_written_rows_are_read_back_with_every_field(tmp_path: Path, name: str) -> None:
    assert write_rows(tmp_path / name, ROWS) == 2
    assert [row for _, row in read_rows(tmp_path / name)] == ROWS


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl.gz", ROWS)
    write_rows(tmp_path / "b.jsonl.gz", ROWS)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_half_a_character_becomes_a_mark(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [json.loads('{"prompt": "a\\ud83d"}')])
    assert [row["prompt"] for _, row in read_rows(tmp_path / "rows.jsonl")] == ["a?"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS)
    with pytest.raises(ZeroDivisionError):
        write_rows(path, ({"prompt": str(1 // number)} for number in (1, 0)))
    assert len(list(read_rows(path))) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b'{"a": "\xe9"}', gzip.compress(b'{"a": 1}\n')[:-9], b"\x1f\x8bnonsense"]
)
def test_bytes_that_are_no_rows_are_bad_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("rows.jsonl.gz" if content[:1] == b"\x1f" else "rows.jsonl")
    path.write_bytes(content)
    with pytest.raises(InputError, match="rows"):
        list(read_rows(path))


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n"secret"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.jsonl:2") as caught:
        list(read_rows(path))
    assert "secret" not in str(caught.value)
