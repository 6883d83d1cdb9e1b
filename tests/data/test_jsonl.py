import gzip
import json
from pathlib import Path

import pytest

from streamward.data.jsonl import read_samples
from streamward.errors import InputError
from streamward.schema import Category, Message, RiskLevel, Role, Span

ROW = {
    "id": "a-1",
    "lang": "en",
    "prompt": "Hi",
    "response": "Hello",
    "prompt_label": "Safe",
    "response_label": "Unsafe",
    "refusal": False,
    "categories": ["PII"],
    "spans": [[0, 2]],
    "unsafe_start": 3,
    "native": {"twin": "t1", "kind": "dialogue", "history": [{"role": "user", "content": "Before"}]},
}


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_row_keeps_everything_training_needs(tmp_path: Path) -> None:
    (sample,) = read_samples(write(tmp_path / "rows.jsonl", json.dumps(ROW)))
    assert (sample.prompt, sample.response) == ("Hi", "Hello")
    assert (sample.prompt_label, sample.response_label) == (RiskLevel.SAFE, RiskLevel.UNSAFE)
    assert sample.categories == (Category.PII,)
    assert sample.spans == (Span(0, 2),)
    assert (sample.unsafe_start, sample.group, sample.kind) == (3, "t1", "dialogue")
    assert sample.history == (Message(Role.USER, "Before"),)
    assert sample.source == "rows"


def test_gzipped_rows_and_blank_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps({"prompt": "a"}) + "\n\n" + json.dumps({"prompt": "b"}) + "\n")
    assert [sample.prompt for sample in read_samples(path)] == ["a", "b"]


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        "{}",
        '{"prompt": 3}',
        '{"prompt": "secret", "prompt_label": "Bad"}',
        '{"prompt": "secret", "categories": ["Rude"]}',
    ],
)
def test_a_bad_row_is_named_by_its_line_and_not_repeated(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "rows.jsonl", '{"prompt": "fine"}', line)
    with pytest.raises(InputError, match=r"rows\.jsonl:2") as caught:
        list(read_samples(path))
    assert "secret" not in str(caught.value)


def test_a_truncated_archive_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode() * 50)[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_samples(path))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_samples(tmp_path / "none.jsonl"))
