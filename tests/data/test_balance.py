from collections import Counter
from typing import Any

import pytest

from streamward.data.balance import BalanceRule, Facts, balance, gather
from streamward.data.jsonl import parse_row
from streamward.errors import ConfigError


def facts(number: int, **fields: Any) -> Facts:
    row = {"prompt": f"row {number}", "prompt_label": "Safe", "lang": "en", **fields}
    return gather(parse_row(row, source="s"), source="s", seed=0)


def rule(**values: Any) -> BalanceRule:
    return BalanceRule.parse(values, source="test")


def languages(rows: list[Facts], kept: list[bool]) -> Counter[str]:
    return Counter(row.values["language"][0] for row, stays in zip(rows, kept, strict=True) if stays)


@pytest.fixture
def rows() -> list[Facts]:
    """Fifty English rows and ten German ones."""
    return [facts(number, lang="en" if number < 50 else "de") for number in range(60)]


def test_a_group_is_cut_to_its_limit_and_others_stay(rows: list[Facts]) -> None:
    assert languages(rows, balance(rows, [rule(by=["language"], max_rows=20)])) == {"en": 20, "de": 10}


def test_a_ratio_is_measured_against_the_smallest_group(rows: list[Facts]) -> None:
    kept = balance(rows, [rule(by=["language"], max_ratio=3, min_rows=10)])
    assert languages(rows, kept) == {"en": 30, "de": 10}


def test_a_target_is_for_one_group_only(rows: list[Facts]) -> None:
    kept = balance(rows, [rule(by=["language", "prompt_label"], targets={"en|Safe": 5})])
    assert languages(rows, kept) == {"en": 5, "de": 10}


def test_a_rule_may_be_about_some_rows_only(rows: list[Facts]) -> None:
    kept = balance(rows, [rule(by=["prompt_label"], only={"language": "de"}, max_rows=3)])
    assert languages(rows, kept) == {"en": 50, "de": 3}


def test_the_same_seed_keeps_the_same_rows_in_whatever_order_they_come(rows: list[Facts]) -> None:
    rules = [rule(by=["language"], max_rows=20)]
    first = {row.priority for row, stays in zip(rows, balance(rows, rules), strict=True) if stays}
    backwards = rows[::-1]
    second = {row.priority for row, stays in zip(backwards, balance(backwards, rules), strict=True) if stays}
    assert first == second


def test_a_row_of_two_kinds_of_harm_stays_while_one_has_room() -> None:
    rows = [facts(number, prompt_label="Unsafe", categories=["PII"]) for number in range(5)]
    rows.append(facts(9, prompt_label="Unsafe", categories=["PII", "Violent"]))
    assert balance(rows, [rule(by=["category"], targets={"PII": 1, "Violent": 1})])[-1]


def test_no_rules_and_no_rows_are_no_trouble(rows: list[Facts]) -> None:
    assert balance(rows, []) == [True] * 60
    assert balance([], [rule(by=["language"], max_ratio=2)]) == []


def test_an_unknown_dimension_is_refused() -> None:
    with pytest.raises(ConfigError, match="by"):
        rule(by=["colour"])
