"""Sets of rules: both layouts, the figures, and the control in which the rule is deleted."""

import json
from pathlib import Path

import pytest

from streamward.errors import InputError
from streamward.evals.rule_metrics import RuleFindings, TaughtRules, measure_rules
from streamward.evals.rule_sets import RuleRow, load_rule_set
from streamward.moderation.moderator import Moderator
from streamward.schema import Role, Side
from tests.rules.banks import ALWAYS, NEVER, policy_with, small_guard

RULES = Path(__file__).parent.parent.parent / "datasets" / "rules"


def test_our_own_set_gives_its_test_split() -> None:
    rows = load_rule_set(RULES)
    assert len(rows) == 808
    assert len({row.rule.id for row in rows}) == 20
    assert sum(row.violates for row in rows) == 404
    assert {row.side for row in rows} == set(Side)


def test_rows_of_dynabench_are_read(tmp_path: Path) -> None:
    path = tmp_path / "dynabench.jsonl"
    rows = [
        {
            "policy": "1. No refunds.",
            "transcript": "User: hi\nAgent: hello\nUser: refund?\nAgent: Sure.",
            "label": "FAIL",
        },
        {"policy": "1. No refunds.", "transcript": "User: hi\nAgent: hello", "label": "PASS"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    first, second = load_rule_set(path)
    assert [turn.role for turn in first.messages] == [Role.USER, Role.ASSISTANT] * 2
    assert first.messages[-1].content == "Sure."
    assert first.violates and not second.violates
    path.write_text(json.dumps({**rows[0], "label": "MAYBE"}), encoding="utf-8")
    with pytest.raises(InputError, match="label"):
        load_rule_set(path)


class Obedient:
    """Fires exactly where a row says so; a deleted rule never, unless it does not heed the policy."""

    def __init__(self, heeds: bool = True) -> None:
        self._heeds = heeds

    def judge(self, row: RuleRow, *, is_deleted: bool) -> RuleFindings:
        fires = row.violates and not (is_deleted and self._heeds)
        return RuleFindings(frozenset({row.rule.id} if fires else ()), {})


def test_the_control_tells_a_guard_that_heeds_the_policy_from_one_that_does_not() -> None:
    rows = load_rule_set(RULES)[:100]
    good, deaf = measure_rules(rows, Obedient()), measure_rules(rows, Obedient(heeds=False))
    assert good.mean_f1 == deaf.mean_f1 == 1.0
    assert good.mean_deleted_recall == 0.0
    assert deaf.mean_deleted_recall == 1.0


def test_taught_rules_are_measured_and_silent_when_deleted() -> None:
    rows = [row for row in load_rule_set(RULES) if row.rule.id == "dosage-advice"][:6]
    policy = policy_with({"id": "dosage-advice"}, {"id": "b"}, thresholds={"dosage-advice": ALWAYS, "b": NEVER})
    with Moderator(small_guard(), policy=policy) as moderator:
        report = measure_rules(rows, TaughtRules(moderator))
    figures = report.rules["dosage-advice"]
    assert figures.recall == figures.false_positives == 1.0
    assert figures.deleted_recall == figures.deleted_flagged == 0.0
    assert any("dosage-advice" in line for line in report.lines())
