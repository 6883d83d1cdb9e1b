from typing import Any

import pytest

from streamward.data.jsonl import Sample, parse_row
from streamward.data.splits import Groups, assign


def sample(prompt: str, **native: Any) -> Sample:
    return parse_row({"prompt": prompt, "lang": "en", "prompt_label": "Safe", "native": native}, source="test")


def roots(*samples: Sample) -> list[int]:
    groups = Groups()
    keys = [groups.add(found) for found in samples]
    return [groups.root(key) for key in keys]


def test_twins_and_rows_with_the_same_prompt_are_one_group() -> None:
    one, other, copy, stranger = roots(
        sample("make a bomb", twin="t1"), sample("make a cake", twin="t1"), sample("Make a cake!"), sample("hello")
    )
    assert one == other == copy
    assert stranger != one


def test_a_group_keeps_its_number_in_whatever_order_its_rows_come() -> None:
    rows = [sample("a", twin="t1"), sample("b", twin="t1"), sample("b", twin="t2"), sample("c", twin="t2")]
    assert set(roots(*rows)) == set(roots(*rows[::-1]))
    assert len(set(roots(*rows))) == 1


def test_follow_ups_with_other_histories_are_not_related() -> None:
    first, second = (
        sample("And then?", history=[{"role": "user", "content": text}]) for text in ("bake bread", "mend a bike")
    )
    assert len(set(roots(first, second))) == 2


@pytest.mark.parametrize(("name", "share"), [("validation", 0.1), ("test", 0.2), ("train", 0.7)])
def test_splits_get_their_share_of_groups(name: str, share: float) -> None:
    fractions = {"validation": 0.1, "test": 0.2}
    number = sum(assign(group, fractions, seed=0) == name for group in range(5000))
    assert number / 5000 == pytest.approx(share, abs=0.02)
