import pytest

from streamward.data.fingerprints import fold, grams, is_unspaced, normalise


@pytest.mark.parametrize(
    "text",
    ["How do I bake bread?", "how do i  BAKE bread", "How do I bake bread...", "\uff28\uff4f\uff57 do_I bake 'bread'!"],
)
def test_case_width_spacing_and_punctuation_do_not_count_for_benchmarks(text: str) -> None:
    assert normalise(text) == "how do i bake bread"


def test_emoji_count() -> None:
    assert normalise("I love \U0001f1ee people") != normalise("I love \U0001f400 people")
    assert "\U0001f400" in normalise("you \U0001f400!")


def test_signs_count_among_repeats() -> None:
    assert fold("What is 5 + 3?") != fold("What is 5 - 3?")
    assert fold(" What is\n5 + 3? ") == fold("what is 5 + 3?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天天气很好", True),
        ("おはよう", True),
        ("สวัสดี", True),
        ("good day", False),
        ("안녕하세요 친구", False),
        ("12", False),
    ],
)
def test_scripts_without_spaces_are_told_apart(text: str, expected: bool) -> None:
    assert is_unspaced(text) is expected


def test_texts_are_cut_into_thirteen_words_or_twenty_characters() -> None:
    words = " ".join(str(number) for number in range(15))
    assert len(list(grams(words))) == 3
    assert list(grams("a b c")) == []
    assert len(list(grams("天" * 22))) == 3
