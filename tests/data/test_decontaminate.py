from pathlib import Path

import pytest

from streamward.data.decontaminate import Benchmarks
from streamward.data.rows import Row, write_rows

LONG = "to be taken from a benchmark this line has more than thirteen words in it and so is cut"
ANSWER = "First sift the flour. " * 8


@pytest.fixture
def benchmarks(tmp_path: Path) -> Benchmarks:
    write_rows(tmp_path / "short.jsonl", [{"prompt": "How do I bake bread?"}, {"prompt": "", "response": "Short."}])
    write_rows(tmp_path / "long.jsonl.gz", [{"prompt": LONG, "response": ANSWER}])
    return Benchmarks([tmp_path / "short.jsonl", tmp_path / "long.jsonl.gz"])


@pytest.mark.parametrize(
    ("row", "reason", "benchmark"),
    [
        ({"prompt": "how do i bake BREAD"}, "same prompt", "short"),
        ({"prompt": f"Please read: {LONG}!"}, "shared n-gram", "long"),
        ({"prompt": "Other", "response": ANSWER.upper()}, "same response", "long"),
        ({"prompt": "x", "native": {"history": [{"role": "user", "content": LONG}]}}, "same prompt", "long"),
    ],
)
def test_a_row_of_a_benchmark_is_found_and_the_benchmark_named(
    benchmarks: Benchmarks, row: Row, reason: str, benchmark: str
) -> None:
    assert benchmarks.overlap(row) == (reason, benchmark)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "How do I bake rye bread?"},
        {"prompt": "", "response": "Short."},
        {"prompt": None, "response": None},
        {"prompt": "!?", "response": "?!"},
        {"prompt": "x", "native": {"history": [{"role": "assistant", "content": LONG}]}},
    ],
)
def test_other_rows_are_left_alone(benchmarks: Benchmarks, row: Row) -> None:
    assert benchmarks.overlap(row) is None


def test_without_benchmarks_nothing_overlaps() -> None:
    assert Benchmarks([]).overlap({"prompt": "How do I bake bread?"}) is None
