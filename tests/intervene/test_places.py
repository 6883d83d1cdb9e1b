"""Where a flagged text is cut, and in which language the product speaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamward.errors import ConfigError
from streamward.intervene.places import CodeBlockScanner, code_block_start, cut_place
from streamward.intervene.wording import joined_to, language_of, own_words, words_of
from streamward.ladder import LadderAction, LadderStep, ReleasePolicy


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Fine. And so on# bad", "Fine."),
        ("Fine! Really?  #", "Fine! Really?"),
        ("No end at all #", ""),
        ("It costs 3.5 euros #", ""),
        ("He said e.g. this #", ""),
        ("Steps:\n1. Wash.\n2. Mix #", "Steps:\n1. Wash."),
        ("- one\n- two #", "- one"),
        ("\u597d\u7684\u3002\u7136\u540e#", "\u597d\u7684\u3002"),
        ("\u201cYes.\u201d She left #", "\u201cYes.\u201d"),
        ("See:\n```\na = 1.\nb#", "See:"),
        ("See:\n```\na\n```\nThen #", "See:\n```\na\n```"),
        ("Ends. #", "Ends."),
    ],
)
def test_a_text_is_cut_behind_the_last_whole_sentence(text, kept):
    assert text[: cut_place(text, text.index("#"), floor=0)] == kept


@given(text=st.text("a .!?\n`-1", max_size=60), unsafe=st.integers(0, 60), floor=st.integers(0, 60))
def test_a_place_is_between_what_cannot_be_dropped_and_what_is_unsafe(text, unsafe, floor):
    unsafe = min(unsafe, len(text))
    floor = min(floor, unsafe)
    assert floor <= cut_place(text, unsafe, floor=floor) <= unsafe


@given(text=st.text("a`~\n ", max_size=60))
def test_a_code_block_is_found_alike_however_the_text_grows(text):
    scanner = CodeBlockScanner()
    for end in range(len(text) + 1):
        assert scanner.start(text[:end]) == code_block_start(text[:end])


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a\n```\nb", 2),
        ("a\n```\nb\n```\n", None),
        ("a\n````\nb\n```\n", 2),
        ("a\n~~~\nb\n```\n", 2),
        ("a\n``", 2),
        ("a `b` c", None),
        ("    ```\ncode", None),
    ],
)
def test_code_blocks_begin_and_end_with_their_fences(text, start):
    assert code_block_start(text) == start


def test_the_product_has_the_same_languages_for_both_of_its_sentences():
    assert own_words()["refuse"].keys() == own_words()["introspect"].keys()
    assert {language_of(sentence) for sentence in own_words()["introspect"].values()} == own_words()[
        "introspect"
    ].keys()


def test_a_policys_words_come_before_the_products():
    step = LadderStep(action=LadderAction.REFUSE, texts={"en": "Stop.", "de": "Halt."})
    assert words_of(step, "de") == "Halt."
    assert words_of(step, "en") == "Stop."
    assert words_of(step, "fr") == own_words()["refuse"]["fr"]
    assert words_of(step, "xx") == "Stop."


def test_a_sentence_follows_a_text_with_white_space_where_its_language_has_some():
    assert joined_to("", "No.") == "No."
    assert joined_to("Yes.", "No.") == " No."
    assert joined_to("- a\n- b", "No.") == "\n\nNo."
    assert joined_to("\u597d\u3002", own_words()["refuse"]["zh"]).startswith(own_words()["refuse"]["zh"][0])


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "hold"},
        {"mode": "checked", "hold_tokens": 3},
        {"mode": "checked", "ladder": [{"action": "stop"}]},
        {"mode": "intervene", "ladder": [{"action": "refuse"}, {"action": "stop"}]},
        {"mode": "intervene", "ladder": [{"action": "refuse", "attempts": 2}]},
        {"mode": "intervene", "ladder": [{"action": "regenerate", "texts": {"en": "x"}}]},
        {"mode": "intervene", "ladder": [{"action": "regenerate", "upstream": "x"}]},
        {"mode": "intervene", "ladder": [{"action": "jump"}]},
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(values):
    with pytest.raises(ConfigError):
        ReleasePolicy.parse(values, source="test")


def test_forty_tokens_are_held_by_default():
    assert ReleasePolicy(mode="intervene").num_held == 40
    assert ReleasePolicy(mode="intervene", hold_tokens=0).num_held == 0
    assert ReleasePolicy().num_held == 0
