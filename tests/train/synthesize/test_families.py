"""What every made row must be, whatever the seed."""

from random import Random

import pytest

from streamward.data.jsonl import parse_row
from streamward.schema import Category, RiskLevel
from streamward.train.synthesize.answers import comply_late
from streamward.train.synthesize.lexicon import Lexicon
from streamward.train.synthesize.perturbations import PERTURBATIONS
from streamward.train.synthesize.requests import Request, draw_request, second_person, third_person
from streamward.train.synthesize.rows import ResponsePart, SyntheticRow, assemble
from streamward.train.synthesize.run import FAMILIES, row_id
from tests.train.synthesize.lexicons import shipped, tiny

LANGUAGES = shipped()


def made(family: str, lexicon: Lexicon, *, tries: int = 300) -> list[SyntheticRow]:
    rng = Random(f"{family}/{lexicon.language}")
    rows = (FAMILIES[family](lexicon, rng) for _ in range(tries))  # type: ignore[index]  # one of the names
    return [row for row in rows if row is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_english_rows_of_every_family_are_rows_of_the_schema(family: str) -> None:
    rows = made(family, LANGUAGES["en"])
    assert len(rows) > 30
    for row in rows:
        sample = parse_row(row.as_json(row_id(row)), source="test")
        assert sample.prompt.strip()
        assert sample.group == row.pair
        assert "{" not in sample.prompt.replace("nginx", "") or family == "computing"


@pytest.mark.parametrize("family", FAMILIES)
def test_harmful_labels_have_a_kind_of_harm_and_safe_rows_none(family: str) -> None:
    for row in made(family, LANGUAGES["en"]):
        levels = {row.prompt_label, row.response_label} - {None}
        assert bool(row.categories) == (levels != {RiskLevel.SAFE}), row


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_start_to_harm_where_the_row_says(language: str) -> None:
    for row in made("dialogue", LANGUAGES[language]):
        assert row.response
        if row.response_label is RiskLevel.SAFE:
            assert row.unsafe_start is None
        else:
            assert row.unsafe_start is not None
            assert row.response[row.unsafe_start :].strip() == row.response[row.unsafe_start :]
            assert row.refusal is False


@pytest.mark.parametrize("language", LANGUAGES)
def test_long_replies_are_of_both_kinds_and_fill_their_slots(language: str) -> None:
    rows = made("reply", LANGUAGES[language])
    assert {row.response_label for row in rows if row.prompt_label is RiskLevel.UNSAFE} == {
        RiskLevel.SAFE,
        RiskLevel.UNSAFE,
    }
    assert [row for row in rows if "{" in (row.response or "")] == []
    for row in rows:
        if row.response_label is RiskLevel.SAFE:
            assert row.unsafe_start is None
        else:
            assert row.unsafe_start is not None
            assert row.refusal is False


def test_the_same_request_gets_a_harmful_and_a_safe_reply() -> None:
    found: dict[str, set[RiskLevel | None]] = {}
    for row in made("reply", LANGUAGES["en"], tries=9000):
        found.setdefault(row.prompt, set()).add(row.response_label)
    assert sum(len(levels) > 1 for levels in found.values()) > len(found) / 2


def test_groups_are_spoken_of_with_contempt_and_without() -> None:
    rows = made("statement", LANGUAGES["zh"])
    texts = {(row.prompt_label, row.response_label) for row in rows}
    safe, unsafe = RiskLevel.SAFE, RiskLevel.UNSAFE
    assert texts == {(safe, None), (unsafe, None), (safe, safe), (safe, unsafe)}


def test_a_late_turn_marks_the_first_harmful_sentence() -> None:
    lexicon = tiny()
    request = Request("How do I make a bomb?", True, lexicon.topics[0], "t")
    answers = [comply_late(lexicon, request, Random(seed)) for seed in range(40)]
    assert {answer.text[answer.unsafe_start :] for answer in answers} == {"Pack it tight."}


def test_requests_that_are_only_refused_are_never_complied_with() -> None:
    for family in ("dialogue", "reply", "reasoning", "turns", "jailbreak", "roleplay", "document"):
        kinds = ("minors", "harm to children")
        rows = [row for row in made(family, LANGUAGES["en"], tries=2000) if row.topic in kinds and row.response]
        assert [row for row in rows if row.response_label is not RiskLevel.SAFE and not row.history] == [], family


def test_the_other_side_of_a_pair_is_harmless_and_framed_alike() -> None:
    lexicon, rng = tiny(), Random(0)
    requests = [draw_request(lexicon, rng, with_act=True) for _ in range(100)]
    assert {(r.act, r.level) for r in requests} == {
        ("make a bomb", RiskLevel.UNSAFE),
        ("make a cake", RiskLevel.SAFE),
    }
    assert len({r.pair for r in requests}) == 1


def test_a_safe_core_in_a_jailbreak_is_controversial_and_an_unsafe_one_unsafe() -> None:
    rows = [row for row in made("jailbreak", LANGUAGES["en"]) if row.topic != "theft" and row.response is None]
    assert {Category.JAILBREAK in row.categories for row in rows} == {True}
    assert {(row.prompt_label, len(row.categories)) for row in rows} == {
        (RiskLevel.UNSAFE, 2),
        (RiskLevel.CONTROVERSIAL, 1),
    }


def test_an_excerpt_keeps_its_label_only_if_the_harm_is_still_in_it() -> None:
    rows = made("excerpt", LANGUAGES["en"], tries=800)
    harmful = [row for row in rows if row.response_label is RiskLevel.UNSAFE]
    assert harmful
    assert all(len(row.response or "") >= (row.unsafe_start or 0) + 16 for row in harmful)


@pytest.mark.parametrize("change", PERTURBATIONS)
def test_a_perturbation_changes_letters_and_not_the_label(change) -> None:
    assert change("How do I make a cake at home?", Random(1)) != "How do I make a cake at home?"
    assert change("", Random(1)) == ""


@pytest.mark.parametrize("text", ["solve my problem", "a", "\U0001f600", "\x00"])
def test_perturbations_take_any_text(text: str) -> None:
    for change in PERTURBATIONS:
        assert isinstance(change(text, Random(2)), str)


def test_an_onset_counts_what_stands_before_it() -> None:
    answer = assemble(
        [ResponsePart("Well."), ResponsePart(""), ResponsePart("Harm.", True), ResponsePart("Bye.", True)],
        level=RiskLevel.UNSAFE,
    )
    assert (answer.text, answer.unsafe_start) == ("Well. Harm. Bye.", 6)
    assert assemble([ResponsePart("Well.")], level=RiskLevel.UNSAFE).level is RiskLevel.SAFE


def test_phrases_turn_to_the_listener() -> None:
    assert second_person("kill myself with my dog when I'm home") == "kill yourself with your dog when you're home"
    assert third_person("kill myself with my dog when I'm home") == "kill themselves with their dog when they're home"


def test_sums_are_right() -> None:
    rows = [row for row in made("computing", LANGUAGES["en"]) if row.topic == "sum" and row.response]
    for row in rows:
        left, _, right = (row.response or "").partition(" = ")
        a, b = (int(number) for number in left.split(" * "))
        assert right.endswith(f"**{a * b}**")
