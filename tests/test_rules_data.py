"""The rows of datasets/rules: complete, split by topic, exactly marked, and without an easy tell."""

import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from streamward.data.rows import Row, read_rows
from streamward.schema import RiskLevel

FOLDER = Path(__file__).parent.parent / "datasets" / "rules"
RULES = tomllib.loads((FOLDER / "rules.toml").read_text("utf-8"))["rules"]
ROWS = {rule["id"]: [row for _, row in read_rows(FOLDER / f"{rule['id']}.jsonl")] for rule in RULES}
LANGUAGES = ("en", "de", "es", "zh")
FIELDS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "source": str,
    "license": str,
    "lang": str,
    "rule": str,
    "topic": str,
    "split": str,
    "prompt": str,
    "response": (str, type(None)),
    "violates": bool,
    "hard_negative": bool,
    "rule_start": (int, type(None)),
}
MAX_ACCURACY = 0.65
"""No one surface feature may tell violations from allowed rows better than this."""

each_rule = pytest.mark.parametrize("rule", RULES, ids=[rule["id"] for rule in RULES])


def judged_text(row: Row) -> str:
    return str(row["prompt"] if row["response"] is None else row["response"])


def first_word(row: Row) -> str:
    """The first word in lower case; in Chinese, the first character."""
    words = re.findall(r"\w+", judged_text(row).casefold())
    return words[0][:1] if row["lang"] == "zh" else words[0]


def relative_lengths(rows: list[Row]) -> list[float]:
    """The share of rows of the same language and side that are shorter, for each row."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["lang"], row["response"] is None].append(len(judged_text(row)))

    def share(row: Row) -> float:
        group = groups[row["lang"], row["response"] is None]
        return sum(length < len(judged_text(row)) for length in group) / len(group)

    return [share(row) for row in rows]


def accuracy(predicted: Iterable[bool], rows: list[Row]) -> float:
    """How often the prediction is right, or its opposite if that is better."""
    right = sum(guess == row["violates"] for guess, row in zip(predicted, rows, strict=True)) / len(rows)
    return max(right, 1 - right)


def test_there_are_twenty_rules_and_a_file_for_each() -> None:
    assert len(RULES) == 20
    assert sorted(path.stem for path in FOLDER.glob("*.jsonl")) == sorted(ROWS)


@each_rule
def test_a_rule_says_what_it_forbids_where_and_how_grave_it_is(rule: Row) -> None:
    assert set(rule) == {"id", "domain", "text", "severity", "applies_to", "exceptions"}
    assert RiskLevel(rule["severity"]) is not RiskLevel.SAFE
    assert rule["exceptions"]
    judged = {"prompt" if row["response"] is None else "response" for row in ROWS[rule["id"]]}
    assert judged == set(rule["applies_to"])


@each_rule
def test_rows_have_the_documented_fields(rule: Row) -> None:
    for row in ROWS[rule["id"]]:
        assert list(row) == list(FIELDS), row["id"]
        assert all(isinstance(row[field], kind) for field, kind in FIELDS.items()), row["id"]
        assert (row["source"], row["license"], row["rule"]) == ("streamward-rules", "CC0-1.0", rule["id"])
        assert row["split"] in ("train", "test") and row["prompt"].strip() == row["prompt"] != "", row["id"]
        assert not (row["violates"] and row["hard_negative"]), row["id"]


@each_rule
def test_each_language_has_enough_rows_of_each_kind(rule: Row) -> None:
    rows = ROWS[rule["id"]]
    assert {row["lang"] for row in rows} == set(LANGUAGES)
    for lang in LANGUAGES:
        mine = [row for row in rows if row["lang"] == lang]
        violations = sum(row["violates"] for row in mine)
        assert len(mine) >= 20 and violations >= 10 and len(mine) - violations >= 10, lang
        assert sum(row["hard_negative"] for row in mine) >= 5, lang


@each_rule
def test_no_topic_is_in_both_splits_and_each_has_both_labels(rule: Row) -> None:
    rows = ROWS[rule["id"]]
    splits = defaultdict(set)
    labels = defaultdict(set)
    for row in rows:
        splits[row["topic"]].add(row["split"])
        labels[row["topic"]].add(row["violates"])
    assert 5 <= len(splits) <= 6
    assert all(len(split) == 1 for split in splits.values())
    assert all(label == {True, False} for label in labels.values())
    assert 40 <= sum(row["split"] == "train" for row in rows) <= len(rows) - 40


@each_rule
def test_violations_in_responses_are_marked_at_a_character(rule: Row) -> None:
    for row in ROWS[rule["id"]]:
        if row["response"] is None or not row["violates"]:
            assert row["rule_start"] is None, row["id"]
        else:
            assert 0 <= row["rule_start"] < len(row["response"]), row["id"]
            rest = row["response"][row["rule_start"] :]
            before = row["response"][: row["rule_start"]]
            assert not rest[0].isspace(), row["id"]
            assert not (before and before[-1].isalnum() and rest[0].isalnum() and row["lang"] != "zh"), row["id"]


@each_rule
def test_responses_have_a_length_that_a_stream_can_be_judged_by(rule: Row) -> None:
    for row in ROWS[rule["id"]]:
        if row["response"] is not None:
            length = len(row["response"]) if row["lang"] == "zh" else len(row["response"].split())
            least, most = (40, 190) if row["lang"] == "zh" else (25, 90)
            assert least <= length <= most, row["id"]


def test_ids_and_texts_are_unique() -> None:
    rows = [row for rows in ROWS.values() for row in rows]
    for key in (lambda row: row["id"], lambda row: row["prompt"], judged_text):
        repeated = [value for value, number in Counter(map(key, rows)).items() if number > 1]
        assert not repeated


@each_rule
def test_no_first_word_tells_violations_from_allowed_rows(rule: Row) -> None:
    rows = ROWS[rule["id"]]
    firsts = [first_word(row) for row in rows]
    for word in set(firsts):
        assert accuracy((first == word for first in firsts), rows) <= MAX_ACCURACY, word


@each_rule
def test_no_limit_of_length_tells_violations_from_allowed_rows(rule: Row) -> None:
    rows = ROWS[rule["id"]]
    lengths = relative_lengths(rows)
    for limit in set(lengths):
        assert accuracy((length < limit for length in lengths), rows) <= MAX_ACCURACY, limit


@each_rule
def test_no_quarter_of_lengths_tells_violations_from_allowed_rows(rule: Row) -> None:
    rows = ROWS[rule["id"]]
    quarters = [int(4 * length) for length in relative_lengths(rows)]
    for quarter in set(quarters):
        assert accuracy((mine == quarter for mine in quarters), rows) <= MAX_ACCURACY, quarter
