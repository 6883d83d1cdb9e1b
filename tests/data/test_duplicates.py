from typing import Any

import pytest

from streamward.data.duplicates import Duplicates
from streamward.data.jsonl import Sample, parse_row

LONG = "Tell me in simple words how one bakes a good dark rye bread at home with a starter that is three weeks old"


def sample(prompt: str = LONG, label: str | None = "Safe", **fields: Any) -> Sample:
    return parse_row({"prompt": prompt, "prompt_label": label, "lang": "en", **fields}, source="test")


def test_the_first_row_stays_and_its_copy_goes() -> None:
    seen = Duplicates()
    assert seen.check(sample()) is None
    assert seen.check(sample(LONG.upper())) == "duplicate"


def test_the_same_text_with_another_label_is_a_contradiction() -> None:
    seen = Duplicates()
    assert seen.check(sample()) is None
    assert seen.check(sample(label="Unsafe")) == "contradiction"
    assert seen.check(sample(label=None)) == "duplicate"


def test_another_response_or_history_is_another_row() -> None:
    seen = Duplicates()
    assert seen.check(sample("Hi")) is None
    assert seen.check(sample("Hi", response="Hello")) is None
    history = {"history": [{"role": "user", "content": "Before"}]}
    assert seen.check(sample("Hi", native=history)) is None


def test_nearly_the_same_text_goes_only_with_the_same_label() -> None:
    seen = Duplicates()
    assert seen.check(sample()) is None
    assert seen.check(sample(LONG + " now")) == "near duplicate"
    assert seen.check(sample(LONG + " now", label="Unsafe")) is None


def test_near_duplicates_stay_if_they_are_wanted() -> None:
    seen = Duplicates(near=False)
    assert seen.check(sample()) is None
    assert seen.check(sample(LONG + " now")) is None


def test_short_twins_stay() -> None:
    seen = Duplicates()
    assert [seen.check(sample(text)) for text in ("How do I make jam?", "How do I make tea?")] == [None, None]


@pytest.mark.parametrize(
    "script", ["今天天气很好我们一起去公园散步吧然后吃饭再回家看电影", "วันนี้อากาศดีเราไปเดินเล่นในสวนกันเถอะแล้วกินข้าว"]
)
def test_near_duplicates_are_found_without_spaces(script: str) -> None:
    seen = Duplicates()
    assert seen.check(sample(script * 2)) is None
    assert seen.check(sample(script * 2 + "x")) == "near duplicate"


def test_unlike_texts_are_never_taken_for_near_duplicates() -> None:
    seen = Duplicates()
    texts = [" ".join(f"word{number * 40 + place}" for place in range(40)) for number in range(200)]
    assert {seen.check(sample(text)) for text in texts} == {None}
