import base64

import pytest

from streamward.evals.perturbations import PERTURBATIONS, perturb_text, perturbed
from streamward.evals.sets import EvalSet
from streamward.schema import Side, Span
from tests.evals.rows import UNSAFE, row

TEXT = "Please explain how the old bakery makes dark bread every morning"


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_changes_the_text_and_is_the_same_every_time(name):
    assert perturb_text(name, TEXT, seed="1") != TEXT
    assert perturb_text(name, TEXT, seed="1") == perturb_text(name, TEXT, seed="1")


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("text", ["", " ", "a", "\ud800", "\u4f60\u597d", "\U0001f600"])
def test_any_text_can_be_perturbed(name, text):
    perturb_text(name, text, seed="1")


def test_what_each_perturbation_does():
    assert perturb_text("case", TEXT, seed="1").lower() == TEXT.lower()
    assert perturb_text("spacing", TEXT, seed="1").split() == TEXT.split()
    spelled = perturb_text("split_characters", TEXT, seed="1")
    assert [each for each in spelled if each.isalpha()] == [each for each in TEXT if each.isalpha()]
    hidden = perturb_text("zero_width", TEXT, seed="1")
    assert "".join(each for each in hidden if each not in "\u200b\u200c\u2060") == TEXT
    assert not perturb_text("homoglyphs", TEXT, seed="1").isascii()
    assert base64.b64decode(perturb_text("base64", TEXT, seed="1")).decode() == TEXT
    assert TEXT.endswith(perturb_text("cut_prefix", TEXT, seed="1"))
    assert perturb_text("wrapper_before", TEXT, seed="1").endswith(TEXT)
    assert perturb_text("wrapper_after", TEXT, seed="1").startswith(TEXT)


def test_a_perturbed_set_keeps_labels_and_loses_spans():
    plain = EvalSet("own", Side.PROMPT, (row(0, UNSAFE, text=TEXT, spans=(Span(0, 3),)),))
    worn = perturbed(plain, "leetspeak")
    assert (worn.rows[0].label, worn.rows[0].spans, worn.perturbation) == (UNSAFE, None, "leetspeak")
    assert worn.sha256() != plain.sha256()
