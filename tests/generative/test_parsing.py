"""Answers of Gen guards: what is read, and what is an error instead of a guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamward.errors import UpstreamError
from streamward.generative.parsing import ParsedAnswer, parse_answer
from streamward.schema import Category, RiskLevel


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Safety: Safe\nCategories: None", ParsedAnswer(RiskLevel.SAFE)),
        ("Safety: Safe\nCategories: None\nRefusal: Yes", ParsedAnswer(RiskLevel.SAFE, (), True)),
        (
            "Safety: Unsafe\nCategories: Violent\nRefusal: No",
            ParsedAnswer(RiskLevel.UNSAFE, (Category.VIOLENT,), False),
        ),
        (
            "Safety: Unsafe\nCategories: Non-violent Illegal Acts",
            ParsedAnswer(RiskLevel.UNSAFE, (Category.ILLEGAL_ACTS,)),
        ),
        (
            "Safety: Controversial\nCategories: Sexual Content or Sexual Acts, PII",
            ParsedAnswer(RiskLevel.CONTROVERSIAL, (Category.SEXUAL, Category.PII)),
        ),
        ("  safety :  UNSAFE \r\ncategories: violent, Violent\n", ParsedAnswer(RiskLevel.UNSAFE, (Category.VIOLENT,))),
        (
            "Refusal: no\nCategories: Jailbreak.\nSafety: Unsafe",
            ParsedAnswer(RiskLevel.UNSAFE, (Category.JAILBREAK,), False),
        ),
        ("<think>\nSafety: Unsafe\n</think>\n\nSafety: Safe", ParsedAnswer(RiskLevel.SAFE)),
        ("Safety: Unsafe\nCategories: None", ParsedAnswer(RiskLevel.UNSAFE)),
        ("Safety: Safe\nSafety: safe", ParsedAnswer(RiskLevel.SAFE)),
    ],
)
def test_answers_are_read(text, answer):
    assert parse_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no Safety line"),
        ("I cannot help with that.", "no Safety line"),
        ("Categories: None\nRefusal: Yes", "no Safety line"),
        ("Safety:", "Safety line is unknown"),
        ("Safety: Safe-ish", "Safety line is unknown"),
        ("Safety: Unsafe", "without a Categories line"),
        ("Safety: Unsafe\nCategories: Mischief, Violent", "1 unknown names"),
        ("Safety: Safe\nSafety: Unsafe\nCategories: Violent", "two Safety lines that differ"),
        ("Safety: Safe\nRefusal: perhaps", "Refusal line is unknown"),
    ],
)
def test_what_cannot_be_read_is_an_error(text, problem):
    with pytest.raises(UpstreamError, match=problem):
        parse_answer(text)


def test_errors_do_not_repeat_the_answer():
    with pytest.raises(UpstreamError) as caught:
        parse_answer("Safety: swordfish\nCategories: swordfish")
    assert "swordfish" not in str(caught.value)


@given(st.text(max_size=200))
def test_no_text_is_taken_for_safe_without_saying_so(text):
    try:
        answer = parse_answer(text)
    except UpstreamError:
        return
    assert answer.risk_level.value.lower() in text.lower()


@given(
    level=st.sampled_from(RiskLevel),
    categories=st.lists(st.sampled_from(Category), min_size=1, unique=True),
    refusal=st.sampled_from([None, True, False]),
)
def test_what_a_guard_writes_is_what_is_read(level, categories, refusal):
    lines = [f"Safety: {level}", f"Categories: {', '.join(categories)}"]
    if refusal is not None:
        lines.append(f"Refusal: {'Yes' if refusal else 'No'}")
    assert parse_answer("\n".join(lines)) == ParsedAnswer(level, tuple(categories), refusal)
