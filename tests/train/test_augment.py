"""Rows made of rows: cut short, and in windows."""

import random

import pytest

from streamward.data.jsonl import Sample, parse_row
from streamward.schema import RiskLevel
from streamward.train.augment import cut_short, windows
from streamward.train.examples import make_example
from tests.train.tiny import guard_tokenizer


def sample(**changes: object) -> Sample:
    return parse_row({"prompt": "Hi", "response": "abcdef", "response_label": "Unsafe"} | changes, source="s")


def test_a_beginning_before_the_onset_is_safe() -> None:
    marked = sample(response="a" * 50 + "b" * 50, unsafe_start=50)
    cuts = [cut_short(marked, random.Random(seed)) for seed in range(30)]
    assert {cut.response_label for cut in cuts if cut} == {RiskLevel.SAFE, RiskLevel.UNSAFE}
    for cut in cuts:
        assert cut is not None
        assert cut.response_label is (RiskLevel.UNSAFE if "b" in (cut.response or "") else RiskLevel.SAFE)


def test_nobody_knows_the_label_of_a_beginning_without_an_onset() -> None:
    assert cut_short(sample(), random.Random(0)) is None
    assert cut_short(sample(response=None, response_label=None, prompt_label="Unsafe"), random.Random(0)) is None


def test_a_row_that_fits_is_left_alone() -> None:
    assert list(windows(guard_tokenizer(), sample(), max_tokens=100)) == [sample()]


@pytest.mark.parametrize(
    "changes",
    [
        {"response": "x" * 500, "response_label": "Safe"},
        {"response": "x" * 300 + "y" * 200, "unsafe_start": 300},
        {"prompt": "\U0001f600" * 100, "response": None, "response_label": None, "prompt_label": "Safe"},
    ],
)
def test_windows_cover_a_long_row_and_each_fits(changes: dict[str, object]) -> None:
    whole = sample(**changes)
    parts = list(windows(guard_tokenizer(), whole, max_tokens=128))
    text = whole.response or whole.prompt
    assert len(parts) > 2
    for part in parts:
        example = make_example(guard_tokenizer(), part, weight=1.0, max_tokens=1000)
        assert example is not None
        assert len(example.ids) <= 128 + 4  # a character cut by a window's edge takes up to four tokens more
    if "unsafe_start" in changes:
        assert parts[0].response_label is RiskLevel.SAFE
        for part in parts:
            unsafe = "y" in (part.response or "")
            assert part.response_label is (RiskLevel.UNSAFE if unsafe else RiskLevel.SAFE)
            if unsafe:
                assert (part.response or "")[part.unsafe_start or 0 :].strip("y") == ""
    assert text.startswith(parts[0].response or parts[0].prompt)
    assert text.endswith(parts[-1].response or parts[-1].prompt)


def test_a_long_unsafe_response_without_an_onset_stays_whole() -> None:
    whole = sample(response="x" * 500)
    assert list(windows(guard_tokenizer(), whole, max_tokens=128)) == [whole]
