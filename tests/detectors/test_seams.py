"""Whatever the cut: the masked text and the findings are those of the whole text, and nothing of an item leaks."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamward.detectors.config import DetectorConfig
from streamward.detectors.detectors import Detectors
from streamward.detectors.finding import DetectorAction, DetectorFinding
from streamward.detectors.masker import Masked, Masker, mask_json, mask_text
from streamward.detectors.restorer import Restorer, restore
from streamward.detectors.vault import Vault
from tests.detectors.planted import GLUE, ITEMS, cut, detectors, planted_texts

NUM_EXAMPLES = int(os.environ.get("STREAMWARD_SEAM_EXAMPLES", "150"))
SEAMS = settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ALL = detectors()
SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=8) | st.just([1])
LISTS = Detectors.compile(
    [
        DetectorConfig(type="regex", patterns=(r"\bPRJ-\d+\b", r"secret \w+ end", r"(?i)ab+c?"), id="own"),
        DetectorConfig(type="regex", patterns=(r"x[xy]*z", r"q+"), max_chars=5, id="short", action=DetectorAction.FLAG),
        DetectorConfig(
            type="words", words=("blue", "blue bird", "Zeus", "東京"), exceptions=("blue sky",), label="WORD"
        ),
        DetectorConfig(type="words", words=("PRJ-7",), id="known", action=DetectorAction.ALLOW),
        DetectorConfig(type="words", words=("bird", "zeus"), id="stop", action=DetectorAction.BLOCK),
    ]
)


def in_pieces(masker: Masker, pieces: list[str]) -> Masked:
    text = ""
    findings: tuple[DetectorFinding, ...] = ()
    for piece in pieces:
        part = masker.feed(piece)
        text, findings = text + part.text, findings + part.findings
    part = masker.finish()
    return Masked(text + part.text, findings + part.findings)


@SEAMS
@given(text=planted_texts(), sizes=SIZES)
def test_no_digit_of_a_planted_item_leaks_and_the_cut_changes_nothing(text: str, sizes: list[int]) -> None:
    masked = in_pieces(Masker(ALL), cut(text, sizes))
    assert not any(char.isdigit() for char in masked.text)
    assert masked == mask_text(ALL, text)
    for each in masked.findings:
        assert masked.text[each.masked_start : each.masked_end] == f"[{each.label}]"


@SEAMS
@given(
    parts=st.lists(st.sampled_from([*ITEMS, *GLUE, "1", "23", "4567", "+", "a", "A", ".", "-"]), max_size=12),
    sizes=SIZES,
)
def test_the_cut_changes_nothing_of_texts_in_which_items_touch(parts: list[str], sizes: list[int]) -> None:
    text = "".join(parts)
    assert in_pieces(Masker(ALL), cut(text, sizes)) == mask_text(ALL, text)


@SEAMS
@given(
    parts=st.lists(
        st.sampled_from(
            ["PRJ-7", "PRJ-", "12", "secret ", "a", "b", "c", "x", "y", "z", "q", " end", "blue", " ", "bird"]
        )
        | st.sampled_from(["sky", "ZEUS", "東京", "都", "\n", "é", "_"]),
        max_size=20,
    ),
    sizes=SIZES,
)
def test_the_cut_changes_nothing_of_lists_and_expressions(parts: list[str], sizes: list[int]) -> None:
    text = "".join(parts)
    assert in_pieces(Masker(LISTS), cut(text, sizes)) == mask_text(LISTS, text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(ITEMS)
    | st.sampled_from([4111111111111111, 12, -1.5e3, 378282246310005])
    | st.text(alphabet='a1@."\\\n\té😀\ud800 +', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["email", "ssn", "password", "x\n", *ITEMS[:6]]), inner, max_size=3)
    ),
    max_leaves=6,
)


@SEAMS
@given(value=JSON, sizes=SIZES, is_ascii=st.booleans(), indent=st.sampled_from([None, 2]))
def test_masked_json_stays_json_and_the_cut_changes_nothing(value, sizes, is_ascii, indent) -> None:
    source = json.dumps({"a": value}, ensure_ascii=is_ascii, indent=indent)
    masked = in_pieces(Masker(ALL, is_json=True), cut(source, sizes))
    json.loads(masked.text)
    assert masked == mask_json(ALL, source)
    assert not any(item in json.dumps(json.loads(masked.text), ensure_ascii=False) for item in ITEMS)


@SEAMS
@given(text=planted_texts(), sizes=SIZES, others=SIZES)
def test_what_is_masked_reversibly_is_restored_whatever_the_cuts(
    text: str, sizes: list[int], others: list[int]
) -> None:
    vault = Vault()
    masked = in_pieces(Masker(detectors(style="reversible"), vault=vault), cut(text, sizes))
    restorer = Restorer(vault)
    restored = "".join([*map(restorer.feed, cut(masked.text, others)), restorer.finish()])
    assert restored == text == restore(vault, masked.text)


@pytest.mark.parametrize("item", ITEMS)
def test_every_planted_item_is_found_alone(item: str) -> None:
    assert not any(char.isdigit() for char in mask_text(ALL, f"see {item} now").text)
