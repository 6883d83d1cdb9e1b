"""The sets that are part of the package: whole, held to their schema, and without a text that repeats."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from streamward.cli.main import main
from streamward.data.jsonl import Sample, check_row
from streamward.data.rows import read_rows
from streamward.evals.counterfactuals import SEVERAL_LANGUAGES
from streamward.evals.packaged_sets import FOLDER, packaged_set
from streamward.evals.predictions import Slices
from streamward.evals.registry import entry_of
from streamward.evals.report_model import read_report
from streamward.schema import Side
from tests.evals.rows import SAFE, UNSAFE

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "ja", "ko", "pt", "ru", "tr", "zh")
GROUPS = (
    "believer", "developer", "doctor_nurse", "gamer", "lawyer", "minority", "parent_teacher", "student",
    "tradesperson_hobby", "writer",
)  # fmt: skip
UNSPACED = ("ja", "zh")
FIELDS = {
    "id", "source", "license", "lang", "prompt", "response", "prompt_label", "response_label", "refusal", "categories",
    "native",
}  # fmt: skip
SUCCESSIVE_WORDS, SUCCESSIVE_CHARS = 8, 12

Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    return [row for _, row in read_rows(FOLDER / f"{name}.jsonl.gz")]


@pytest.fixture(scope="module")
def everyday() -> list[Row]:
    return rows_of("everyday")


@pytest.fixture(scope="module")
def cues() -> list[Row]:
    return rows_of("cues")


def contrast_sets(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["native"]["twin"], []).append(row)
    return found


def letters(text: str) -> str:
    return "".join(char for char in text if char.isalnum() or unicodedata.category(char).startswith("M"))


def pieces(text: str, lang: str) -> Iterator[str]:
    """Runs of successive words, or of characters where words are not separated."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if lang in UNSPACED:
        joined = letters(folded)
        yield from (joined[at : at + SUCCESSIVE_CHARS] for at in range(len(joined) - SUCCESSIVE_CHARS + 1))
        return
    words = [word for part in folded.split() if (word := letters(part))]
    yield from (" ".join(words[at : at + SUCCESSIVE_WORDS]) for at in range(len(words) - SUCCESSIVE_WORDS + 1))


def length(text: str, lang: str) -> int:
    return len(letters(text)) if lang in UNSPACED else len(text.split())


@pytest.mark.parametrize("name", ["everyday", "cues"])
def test_every_row_is_in_our_schema(name):
    rows = rows_of(name)
    for row in rows:
        assert row.keys() - {"unsafe_start"} == FIELDS
        sample = check_row(row, where=row["id"], source=name)
        assert isinstance(sample, Sample) and sample.prompt.strip() == sample.prompt != ""
        assert (row["source"], row["license"]) == (f"streamward-{name}", "CC0-1.0")
        assert row["lang"] in LANGUAGES
        assert (row["response"] is None) == (row["response_label"] is None) == (row["refusal"] is None)
        assert row["response"] is None or row["response"].strip() == row["response"] != ""
    assert len({row["id"] for row in rows}) == len(rows) == entry_of(name).rows


def test_no_row_repeats_a_passage_of_another(everyday, cues):
    owners: dict[str, str] = {}
    for row in everyday + cues:
        owner = row["native"].get("twin", row["id"])
        for text in filter(None, (row["prompt"], row["response"])):
            for piece in pieces(text, row["lang"]):
                assert owners.setdefault(piece, owner) == owner, piece


def test_everyday_rows_are_all_safe_and_spread_over_languages_and_groups(everyday):
    assert {row["prompt_label"] for row in everyday} == {"Safe"}
    assert {row["response_label"] for row in everyday} == {"Safe", None}
    assert not any(row["categories"] for row in everyday)
    cells = Counter((row["lang"], row["native"]["group"]) for row in everyday)
    assert cells == {(lang, group): 10 if lang == "en" else 6 for lang in LANGUAGES for group in GROUPS}
    assert 0.55 < sum(row["response"] is None for row in everyday) / len(everyday) < 0.65
    assert len({row["native"].get("identity") for row in everyday}) > 30


def test_everyday_responses_have_the_length_of_an_answer(everyday):
    for row in everyday:
        if row["response"] is not None:
            least, most = (50, 300) if row["lang"] in UNSPACED else (22, 120)
            assert least <= length(row["response"], row["lang"]) <= most, row["id"]


def test_a_contrast_set_has_one_cue_one_label_and_no_text_twice(cues):
    for rows in contrast_sets(cues).values():
        assert 4 <= len(rows) <= 8
        assert len({(row["prompt"], row["response"]) for row in rows}) == len(rows)
        assert len({row["native"]["variant"] for row in rows}) == len(rows)
        facts = ("prompt_label", "response_label", "categories")
        assert len({(row["native"]["cue"], *(str(row[fact]) for fact in facts)) for row in rows}) == 1
        has_languages = len({row["lang"] for row in rows}) > 1
        assert has_languages == (rows[0]["native"]["cue"] == "language")


def test_contrast_sets_are_half_prompts_and_a_quarter_unsafe(cues):
    found = contrast_sets(cues)
    kinds = Counter(
        (rows[0]["response"] is None, rows[0]["prompt_label"] or rows[0]["response_label"]) for rows in found.values()
    )
    assert len(found) == 128
    assert kinds == {(True, "Safe"): 48, (True, "Unsafe"): 16, (False, "Safe"): 48, (False, "Unsafe"): 16}
    assert {rows[0]["native"]["cue"] for rows in found.values()} == {
        "casing", "connective", "identity", "language", "list_marker", "name", "opening", "politeness",
    }  # fmt: skip


def test_harmful_responses_say_where_the_harm_starts(cues):
    for row in cues:
        is_harmful = row["response_label"] == "Unsafe"
        assert is_harmful == ("unsafe_start" in row)
        assert bool(row["categories"]) == (UNSAFE in (row["prompt_label"], row["response_label"]))
        assert not is_harmful or 0 < row["unsafe_start"] < len(row["response"])


def test_a_packaged_set_is_read_by_side_with_its_slices():
    prompts, responses = packaged_set("everyday")
    assert (prompts.side, responses.side) == (Side.PROMPT, Side.RESPONSE)
    assert (len(prompts.rows), {row.label for row in prompts.rows}) == (760, {SAFE})
    assert prompts.rows[0].slices == Slices(group="developer")
    assert all(row.slices.contrast_set for each in packaged_set("cues") for row in each.rows)


def test_the_everyday_suite_needs_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--suite", "everyday", "--baseline", "keyword", "--out", "out"]) == 0
    report = read_report(tmp_path / "out")
    assert [(each.side, len(each.languages), len(each.groups)) for each in report.everyday] == [
        (Side.PROMPT, 12, 10),
        (Side.RESPONSE, 12, 10),
    ]
    assert report.headlines[0].endswith("of 760 harmless prompts are flagged.")
    assert (tmp_path / "out" / "report.md").read_text().index("**") < 400


def test_the_cues_suite_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--suite", "cues", "--baseline", "keyword", "--out", "out"]) == 0
    flips = read_report(tmp_path / "out").flips
    assert flips is not None and flips.whole.contrast_sets == 128
    assert SEVERAL_LANGUAGES in {each.name for each in flips.languages}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a folder of sets, or `hub`; only the suites cues and everyday need none"),
        (["--suite", "languages"], "only the suites cues and everyday need none"),
        (["--suite", "cues", "--sets", "cues"], "give the folder too"),
        (["--suite", "everyday", "--held-back", "0.1"], "give the folder too"),
    ],
)
def test_a_suite_without_its_folder_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments, "--out", "out"]) == 2
    assert message in capsys.readouterr().err
