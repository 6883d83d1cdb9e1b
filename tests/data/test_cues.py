"""Surface cues are counted against labels, and what predicts too surely is found."""

from collections.abc import Iterable

import pytest

from streamward.data.cues import Cue, CueCount, CueKind, CueTarget, count_cues, excessive, sentences
from streamward.data.jsonl import Sample
from streamward.schema import RiskLevel, Span


def sample(
    prompt: str = "",
    response: str | None = None,
    *,
    label: RiskLevel = RiskLevel.SAFE,
    onset: int | None = None,
    spans: tuple[Span, ...] | None = None,
) -> Sample:
    prompt_label = None if response is not None else label
    response_label = None if response is None else label
    return Sample("", "test", "en", prompt, response, prompt_label, response_label, unsafe_start=onset, spans=spans)


def counted(samples: Iterable[Sample]) -> dict[Cue, tuple[int, int]]:
    return {each.cue: (each.num_rows, each.num_unsafe) for each in count_cues(samples, min_rows=1)}


def test_the_opening_of_the_sentence_in_which_harm_begins_is_counted_against_the_others() -> None:
    text = "It rains. And it pours. And then it stops."
    counts = counted(
        [sample(response=text, label=RiskLevel.UNSAFE, onset=text.index("And then")), sample(response=text)]
    )
    assert counts[Cue(CueTarget.ONSET, CueKind.FIRST_WORD, "and")] == (4, 1)


def test_sentences_behind_the_onset_and_answers_harmful_from_an_unknown_place_are_not_counted() -> None:
    text = "Fine. Bad. After it."
    marked = sample(response=text, label=RiskLevel.UNSAFE, spans=(Span(6, 9),))
    unmarked = sample(response=text, label=RiskLevel.UNSAFE)
    counts = counted([marked, unmarked])
    assert counts[Cue(CueTarget.ONSET, CueKind.FIRST_WORD, "bad")] == (1, 1)
    assert Cue(CueTarget.ONSET, CueKind.FIRST_WORD, "after") not in counts


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1. Mix it", CueKind.LIST_MARKER, "1."),
        ("27. Mix it", CueKind.LIST_MARKER, "1."),
        ("- Mix it", CueKind.LIST_MARKER, "-"),
        ("1. Mix it", CueKind.FIRST_WORD, "mix"),
        ("\u7b2c\u4e00\u6b65\u5148\u8bf4", CueKind.FIRST_WORD, "\u7b2c\u4e00"),
        ("Don\u2019t do it now", CueKind.TEMPLATE, "don\u2019t do it"),
        ("Do it", CueKind.LENGTH, "up to 40 characters"),
        ("Do it " * 300, CueKind.LENGTH, "over 1280 characters"),
        ("Do it", CueKind.LANGUAGE, "en"),
    ],
)
def test_what_of_a_text_is_looked_at(text: str, kind: CueKind, value: str) -> None:
    assert counted([sample(text)])[Cue(CueTarget.PROMPT, kind, value)] == (1, 0)


def test_controversial_rows_stand_on_neither_side() -> None:
    assert not counted([sample("Maybe", label=RiskLevel.CONTROVERSIAL)])


def test_few_rows_are_less_sure_than_many_of_the_same_share() -> None:
    cue = Cue(CueTarget.PROMPT, CueKind.FIRST_WORD, "or")
    few, many = CueCount(cue, 4, 4), CueCount(cue, 400, 400)
    assert few.precision == many.precision == 1.0
    assert few.lower_bound == pytest.approx(0.51, abs=0.01)  # Wilson's interval, from a table
    assert many.lower_bound == pytest.approx(0.99, abs=0.001)


def test_a_cue_that_predicts_harm_is_found_until_harmless_rows_carry_it() -> None:
    harmful = [sample(f"Sudo {number} now", label=RiskLevel.UNSAFE) for number in range(200)]
    harmless = [sample(f"Sudo apt {number}") for number in range(200)]
    other = [sample(f"Bread {number}") for number in range(200)]

    def found(rows: list[Sample]) -> list[str]:
        counts = count_cues(rows, min_rows=20)
        return [each.cue.value for each in excessive(counts, max_label_precision=0.9, max_onset_precision=0.5)]

    assert found(harmful + other) == ["sudo"]
    assert found(harmful + harmless + other) == []


def test_sentences_end_at_stops_and_lines_in_any_script() -> None:
    text = "One. Two!\nThree\u3002\u56db\uff1fFive"
    assert [part.strip() for _, part in sentences(text)] == ["One.", "Two!", "Three\u3002", "\u56db\uff1f", "Five"]
    assert all(text.startswith(part, start) for start, part in sentences(text))
