"""Refusals are read off the wording only where there is no doubt."""

from typing import Any

import pytest

from streamward.data.jsonl import parse_row
from streamward.train.refusals import with_refusal


def refusal(response: str | None, label: str | None = "Safe", **changes: Any) -> bool | None:  # Any: fields of a row
    row = {"lang": "en", "prompt": "p", "response": response, "response_label": label, **changes}
    return with_refusal(parse_row(row, source="test")).refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I\u2019m sorry, this is not something I do.",
        "As a model, I cannot provide that.",
        "Bob: I must decline.",
        "Sadly I am not able to help.",
    ],
)
def test_an_answer_that_opens_like_a_refusal_is_one(text: str) -> None:
    assert refusal(text) is True


def test_help_without_the_words_of_a_refusal_complies() -> None:
    assert refusal("First, boil the water.", prompt_label="Safe") is False
    assert refusal("First, hurt him.", "Unsafe", prompt_label="Unsafe") is False


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("I'm sorry, but I can't. Evil me: of course!", {"label": "Unsafe"}),
        ("That is illegal, think of the dog.", {"prompt_label": "Unsafe"}),
        ("Long text. " * 30 + "I can't say more.", {"prompt_label": "Safe"}),
        ("Das kann ich nicht. I'm sorry.", {"lang": "de"}),
        ("I'm sorry that your dog died.", {"prompt_label": "Safe"}),
        ("I'm sorry.", {"label": None}),
        (None, {}),
    ],
)
def test_what_could_be_either_stays_unknown(text: str | None, changes: dict[str, Any]) -> None:
    assert refusal(text, **changes) is None


def test_what_a_row_says_stays() -> None:
    assert refusal("I'm sorry, no.", refusal=False) is False
