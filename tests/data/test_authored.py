"""Rows of datasets/authored, labels of datasets/labels: complete, unique, and apart from the evaluation sets."""

import re
from collections import Counter
from pathlib import Path

import pytest

from streamward.data.decontaminate import Benchmarks
from streamward.data.jsonl import check_row
from streamward.data.labels import read_labels
from streamward.data.rows import Row, read_rows
from streamward.schema import RiskLevel

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "datasets" / "authored"
FILES = sorted(FOLDER.glob("*.jsonl.gz"))
EVALUATION_SETS = sorted((ROOT / "src" / "streamward" / "evals" / "data").glob("*.jsonl.gz"))

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def rows(path: Path) -> list[Row]:
    return [row for _, row in read_rows(path)]


def test_the_table_names_every_file_with_its_number_of_rows() -> None:
    table = re.findall(r"^\| (\w+) \| (\d+) \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: int(number) for name, number in table} == {
        path.name.removesuffix(".jsonl.gz"): len(rows(path)) for path in FILES
    }


@each_file
def test_rows_are_complete_and_marks_lie_in_their_responses(path: Path) -> None:
    for row in rows(path):
        sample = check_row(row, where=row["id"], source=path.name)
        assert (row["license"], row["source"]) == ("CC0-1.0", "streamward-synthetic-3")
        assert sample.prompt and sample.prompt_label is not None and sample.language
        if sample.response_label is RiskLevel.UNSAFE:
            assert sample.response is not None and sample.unsafe_start is not None
            assert 0 <= sample.unsafe_start < len(sample.response)
        elif sample.response is None:
            assert sample.unsafe_start is None
        if sample.prompt_label is RiskLevel.UNSAFE:
            assert sample.categories


def test_no_row_is_there_twice() -> None:
    found = Counter((row["prompt"], row["response"]) for path in FILES for row in rows(path))
    ids = Counter(row["id"] for path in FILES for row in rows(path))
    assert not [text for text, number in (found | ids).items() if number > 1]


@each_file
def test_no_row_overlaps_with_the_evaluation_sets(path: Path) -> None:
    benchmarks = Benchmarks(EVALUATION_SETS)
    assert len(benchmarks) > 1000
    assert not [row["id"] for row in rows(path) if benchmarks.overlap(row) is not None]


@pytest.mark.parametrize("path", sorted((ROOT / "datasets" / "labels").glob("*.gz")), ids=lambda path: path.name)
def test_labels_can_be_read(path: Path) -> None:
    labels = read_labels(path)
    levels = {label["prompt_label"] for label in labels.values()}
    assert len(labels) > 2000 and levels == {level.value for level in RiskLevel}
