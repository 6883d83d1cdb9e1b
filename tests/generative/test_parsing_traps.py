"""Answers of Gen guards: what is read, and what is refused."""

import pytest

from streamward.errors import UpstreamError
from streamward.generative.parsing import ParsedAnswer, parse_answer
from streamward.schema import Category, RiskLevel

SAFE, UNSAFE, CONTROVERSIAL = RiskLevel.SAFE, RiskLevel.UNSAFE, RiskLevel.CONTROVERSIAL


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Safety: Safe\nCategories: None", ParsedAnswer(SAFE, (), None)),
        ("Safety: Safe\nCategories: None\nRefusal: Yes", ParsedAnswer(SAFE, (), True)),
        ("Safety: Unsafe\nCategories: Violent\nRefusal: No", ParsedAnswer(UNSAFE, (Category.VIOLENT,), False)),
        ("Safety: Controversial\nCategories: PII", ParsedAnswer(CONTROVERSIAL, (Category.PII,), None)),
        ("Refusal: No\nCategories: Jailbreak\nSafety: Unsafe", ParsedAnswer(UNSAFE, (Category.JAILBREAK,), False)),
        ("  Safety :  Unsafe \r\n\r\n\tCategories:PII  \r\n", ParsedAnswer(UNSAFE, (Category.PII,), None)),
        ("safety: UNSAFE\nCATEGORIES: suicide & self-harm", ParsedAnswer(UNSAFE, (Category.SELF_HARM,), None)),
        ("<think>\n\n</think>\n\nSafety: Safe\nCategories: None", ParsedAnswer(SAFE)),
        ("<think>\nSafety: Safe?\n</think>\nSafety: Unsafe\nCategories: PII", ParsedAnswer(UNSAFE, (Category.PII,))),
        ("Safety: Safe", ParsedAnswer(SAFE)),
        ("Safety: Safe\nCategories:\nRefusal: No", ParsedAnswer(SAFE, (), False)),
        ("Safety: Unsafe\nCategories: None", ParsedAnswer(UNSAFE)),
        ("Safety: Safe\nSafety: safe\nCategories: None\nCategories: None", ParsedAnswer(SAFE)),
        ("Here is my judgement.\nSafety: Safe\nCategories: None", ParsedAnswer(SAFE)),
    ],
)
def test_an_answer_is_read(text: str, answer: ParsedAnswer) -> None:
    assert parse_answer(text) == answer


def test_a_category_within_the_name_of_another_is_not_found() -> None:
    answer = parse_answer("Safety: Unsafe\nCategories: Non-violent Illegal Acts")
    assert answer.categories == (Category.ILLEGAL_ACTS,)


def test_several_categories_keep_their_order_and_repetitions_fall_away() -> None:
    answer = parse_answer("Safety: Unsafe\nCategories: Unethical Acts, Violent,violent , Non-violent Illegal Acts")
    assert answer.categories == (Category.UNETHICAL, Category.VIOLENT, Category.ILLEGAL_ACTS)


@pytest.mark.parametrize("category", Category)
def test_every_category_is_known(category: Category) -> None:
    assert parse_answer(f"Safety: Unsafe\nCategories: {category.value}").categories == (category,)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no Safety line"),
        ("Safe", "no Safety line"),
        ("The Safety: Safe", "no Safety line"),
        ("**Safety: Safe**", "no Safety line"),
        ("Categories: None\nRefusal: No", "no Safety line"),
        ("Safety:\nSafe", "Safety line is unknown"),
        ("Safety: Safe or Unsafe", "Safety line is unknown"),
        ("Safety: Not Safe", "Safety line is unknown"),
        ("Safety: Saf", "Safety line is unknown"),
        ("Safety: Safe\nSafety: Unsafe\nCategories: Violent", "two Safety lines"),
        ("Safety: Unsafe", "without a Categories line"),
        ("Safety: Controversial\nRefusal: No", "without a Categories line"),
        ("Safety: Unsafe\nCategories:", "without a Categories line"),
        ("Safety: Unsafe\nCategories: Violen", "1 unknown names"),
        ("Safety: Unsafe\nCategories: Violent Non-violent Illegal Acts", "1 unknown names"),
        ("Safety: Unsafe\nCategories: Violent, None", "1 unknown names"),
        ("Safety: Unsafe\nCategories: Violent,", "1 unknown names"),
        ("Safety: Unsafe\nCategories: Violent\nCategories: PII", "two Categories lines"),
        ("Safety: Safe\nRefusal: Maybe", "Refusal line is unknown"),
        ("Safety: Safe\nRefusal:", "Refusal line is unknown"),
        ("Safety: Safe\nRefusal: Yes\nRefusal: No", "two Refusal lines"),
        ("<think>\nSafety: Safe\nCategories: None", "within its reasoning"),
        ("<think>\n</think>\n<think>\nSafety: Safe", "within its reasoning"),
    ],
)
def test_what_cannot_be_read_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(UpstreamError, match=problem):
        parse_answer(text)


@pytest.mark.parametrize(
    "text",
    [
        "Safety: sesame",
        "Safety: Unsafe\nCategories: sesame",
        "Safety: Safe\nRefusal: sesame",
        "sesame",
        "Safety: Unsafe\nCategories: sesame\nCategories: PII",
    ],
)
def test_an_error_does_not_repeat_the_answer(text: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        parse_answer(text)
    assert "sesame" not in repr(caught.value)
