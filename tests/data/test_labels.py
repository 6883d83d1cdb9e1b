"""Labels that are kept apart from their rows."""

import json
from pathlib import Path

import pytest

from streamward.data.jsonl import read_samples
from streamward.data.labels import read_labels
from streamward.errors import InputError
from streamward.schema import Category, RiskLevel


def lines(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_given_labels_go_before_those_of_the_rows(tmp_path: Path) -> None:
    rows = lines(
        tmp_path / "rows.jsonl",
        {"id": "a", "prompt": "one", "prompt_label": None},
        {"id": "b", "prompt": "two", "prompt_label": "Safe"},
    )
    labels = lines(tmp_path / "labels.jsonl", {"id": "a", "prompt_label": "Unsafe", "categories": ["Violent"]})
    first, second = read_samples(rows, read_labels(labels))
    assert (first.prompt_label, first.categories) == (RiskLevel.UNSAFE, (Category.VIOLENT,))
    assert second.prompt_label is RiskLevel.SAFE


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt_label": "Safe"}], ":1: a label needs the id"),
        ([{"id": "a", "prompt_label": "Safe"}, {"id": "a", "prompt_label": "Safe"}], ":2: the id is labelled twice"),
        ([{"id": "a", "prompt": "text"}], ":1: a label has an id and any of"),
        ([{"id": "a"}], ":1: a label has an id and any of"),
    ],
)
def test_a_wrong_file_of_labels_is_refused(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_labels(lines(tmp_path / "labels.jsonl", *rows))


def test_an_unknown_level_names_the_line_of_the_row(tmp_path: Path) -> None:
    rows = lines(tmp_path / "rows.jsonl", {"id": "a", "prompt": "one"})
    labels = lines(tmp_path / "labels.jsonl", {"id": "a", "prompt_label": "Sad"})
    with pytest.raises(InputError, match=r"rows\.jsonl:1: prompt_label must be one of"):
        list(read_samples(rows, read_labels(labels)))
