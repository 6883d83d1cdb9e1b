"""Files in the encodings people save them in, wherever we read any."""

import gzip
import io
import json

import pytest

from streamward.data.rows import read_rows
from streamward.distributed.source import JsonlSource
from streamward.errors import ConfigError, InputError
from streamward.evals.readers import read_records
from streamward.policy import Policy
from streamward.server.config import ServeConfig
from streamward.text_files import decode_plain, raw_lines, read_lines
from streamward.train.toml_file import read_table

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]
ROWS = [{"prompt": "gr\u00fc\u00dfe \u2028 \u0a0a \u0d0d"}, {"prompt": "\u4e2d\u6587 \U0001f469"}]
LINES = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rows_to_learn_from_and_to_measure_on_are_read(tmp_path, encoding):
    (tmp_path / "rows.jsonl").write_bytes(LINES.encode(encoding))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(LINES.encode(encoding)))
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        assert list(read_rows(tmp_path / name)) == [(1, ROWS[0]), (3, ROWS[1])]
        assert list(read_records(tmp_path / name)) == ROWS


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shard_rows", [1, 2, 3, 100])
def test_shards_of_any_size_have_every_row_once(tmp_path, encoding, shard_rows):
    path = tmp_path / "rows.jsonl"
    path.write_bytes((LINES + "\n").encode(encoding))
    source = JsonlSource(path)
    shards = source.plan(shard_rows).shards
    rows = [row for shard in reversed(shards) for row in source.read(shard)]
    assert sorted((row.label["line"], row.item) for row in rows) == [(1, ROWS[0]), (3, ROWS[1])]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_policies_and_settings_are_read(tmp_path, encoding):
    policy, settings = tmp_path / "policy.toml", tmp_path / "serve.toml"
    policy.write_bytes('name = "gr\u00fc\u00dfe"\r\n'.encode(encoding))
    settings.write_bytes('guard = "gr\u00fc\u00dfe"\n'.encode(encoding))
    assert Policy.load(policy).name == "gr\u00fc\u00dfe"
    assert ServeConfig.load(settings).guard == "gr\u00fc\u00dfe"
    assert read_table(settings) == {"guard": "gr\u00fc\u00dfe"}


@pytest.mark.parametrize(
    "data", [b'name = "a"\nversion = "\xe9"\n', b'\xef\xbb\xbfname = "a"\nversion = "\xe9"\n'], ids=["plain", "marked"]
)
def test_another_encoding_is_named_with_its_place(tmp_path, data):
    path = tmp_path / "mine.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="line 2: byte 0xe9 is not UTF-8; save the file as UTF-8 or UTF-16"):
        Policy.load(path)
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n\n{"a": "\xe9"}')
    with pytest.raises(InputError, match=r"rows\.jsonl:3: byte 0xe9 is not UTF-8"):
        list(read_rows(tmp_path / "rows.jsonl"))


def test_utf_32_is_named():
    with pytest.raises(InputError, match="UTF-32"):
        list(read_lines(io.BytesIO("{}".encode("utf-32"))))


def test_marks_in_the_middle_are_those_of_files_put_together():
    lines = read_lines(io.BytesIO(b'\xef\xbb\xbf{"a": 1}\n\xef\xbb\xbf{"a": 2}\n'))
    assert [line.text for line in lines] == ['{"a": 1}', '{"a": 2}']


@pytest.mark.parametrize("data", [b"a\x00b\x00then plain text", b"\x00a\x00b\x00c\x00", b"a\x00", b"\x00\x00\x00\x00"])
def test_text_with_nul_is_not_taken_for_utf_16_unless_all_of_it_is(data):
    assert decode_plain(data) == data.decode()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "\n\na\r\n\u0a0a\n", "\ud83d\n\ud83d", "\U0001f469\n"])
def test_raw_lines_put_together_are_the_file(encoding, text):
    for rest in (b"", b"\n" if encoding == "utf-8" else b"a"):
        data = text.encode(encoding, "surrogatepass") + rest
        lines = list(raw_lines(io.BytesIO(data), encoding))
        assert b"".join(lines) == data
        assert all(line.decode(encoding, "replace").count("\n") <= 1 for line in lines)


def test_a_file_that_ends_within_a_character_says_so():
    *_, last = read_lines(io.BytesIO('{"a": 1}\n{}'.encode("utf-16") + b"\x00"))
    assert last.text is None
    assert "cut off" in last.problem
