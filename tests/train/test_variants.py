"""Variants of rows keep their labels, their marks and their meaning."""

import random

import pytest

from streamward.data.jsonl import Sample
from streamward.schema import RiskLevel, Span
from streamward.train.variants import CONNECTIVES, vary


def row(response: str | None, language: str = "en", **changes: object) -> Sample:
    label = None if response is None else RiskLevel.SAFE
    fields: dict[str, object] = {
        "id": "1",
        "source": "x",
        "language": language,
        "prompt": "Where do Bees sleep?",
        "response": response,
        "prompt_label": RiskLevel.SAFE,
        "response_label": label,
    }
    return Sample(**(fields | changes))  # type: ignore[arg-type]  # fields of several types


def variants(sample: Sample) -> list[Sample]:
    return [vary(sample, random.Random(seed)) for seed in range(40)]


def test_a_prompt_gets_another_case_or_end_mark() -> None:
    texts = {each.prompt for each in variants(row(None))}
    assert {"WHERE DO BEES SLEEP?", "where do bees sleep?", "Where do Bees sleep", "where do bees sleep"} <= texts
    assert all(text.lower().rstrip("?!.") == "where do bees sleep" for text in texts)


def test_a_sentence_of_a_response_opens_with_a_connective() -> None:
    texts = {each.response for each in variants(row("Warm it. Stir it well."))}
    assert "Warm it. And stir it well." in texts
    assert len(texts) == len(CONNECTIVES["en"])


@pytest.mark.parametrize("language", ["ja", "de", "ar"])
def test_marks_move_with_the_text(language: str) -> None:
    text = "Ein Satz. Noch einer. Der Schaden folgt."
    start = text.index("Schaden")
    sample = row(text, language, response_label=RiskLevel.UNSAFE, unsafe_start=start, spans=(Span(start, start + 7),))
    for each in variants(sample):
        assert each.response is not None and each.response != text
        assert each.unsafe_start is not None and each.spans is not None
        assert each.response[each.unsafe_start :].startswith("Schaden")
        assert each.response[each.spans[0].start : each.spans[0].end] == "Schaden"


def test_harm_that_begins_with_the_sentence_begins_with_its_connective() -> None:
    text = "First line. Harm here."
    for each in variants(row(text, response_label=RiskLevel.UNSAFE, unsafe_start=12)):
        assert each.unsafe_start == 12


def test_what_cannot_be_varied_stays() -> None:
    for sample in (row("One sentence only."), row("One. Two.", language="xx"), row(None, spans=(Span(0, 5),))):
        assert vary(sample, random.Random(1)) == sample


def test_a_prompt_of_nothing_but_marks_does_not_become_empty() -> None:
    assert all(each.prompt for each in variants(row(None, prompt="???")))
