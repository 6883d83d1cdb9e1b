"""Rules of a policy: what may be stated, where examples come from, and when a rule counts as changed."""

import json
from pathlib import Path

import pytest

from streamward.errors import ConfigError
from streamward.policy import Policy
from streamward.rules.examples import load_examples, rule_digest
from streamward.rules.probe import probe_path
from streamward.rules.rule import Rule
from streamward.schema import Action, RiskLevel, Side
from tests.rules.banks import bank_of, rule_probe


def policy_of(*rules: dict[str, object], **values: object) -> Policy:
    return Policy.parse({"name": "own", "rules": list(rules), **values}, source="test")


def rule_of(**values: object) -> Rule:
    return policy_of({"id": "one", "text": "no", **values}).rules[0]


def test_a_rule_has_defaults_that_judge_both_sides() -> None:
    rule = rule_of()
    assert rule.severity is RiskLevel.UNSAFE
    assert rule.sides == frozenset(Side)
    assert not rule.is_taught


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"id": "a b"}, "rule id"),
        ({"severity": "Safe"}, "severity"),
        ({"applies_to": []}, "applies_to"),
        ({"applies_to": ["mail"]}, "applies_to"),
        ({"mode": "both"}, "mode"),
        ({"threshold": 2.0}, "threshold"),
        ({"words": "x"}, "words"),
    ],
)
def test_a_rule_with_a_wrong_value_is_refused_by_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        rule_of(**values)


def test_two_rules_cannot_have_one_id() -> None:
    with pytest.raises(ConfigError, match="one id"):
        policy_of({"id": "a", "text": "x"}, {"id": "A", "text": "y"})


def test_a_rule_that_replaces_needs_words_to_say_instead() -> None:
    with pytest.raises(ConfigError, match="replacement"):
        policy_of({"id": "a", "text": "x", "action": "replace"})


def test_the_action_of_a_rule_is_its_own_or_that_of_its_severity() -> None:
    policy = policy_of(
        {"id": "a", "text": "x", "severity": "Controversial"},
        {"id": "b", "text": "x", "action": "flag"},
        response={"controversial": "allow"},
    )
    assert policy.rule_action(policy.rules[0], Side.RESPONSE) is Action.ALLOW
    assert policy.rule_action(policy.rules[0], Side.PROMPT) is Action.BLOCK
    assert policy.rule_action(policy.rules[1], Side.RESPONSE) is Action.FLAG


def test_a_rule_of_mode_replace_puts_the_categories_out_of_force_on_its_sides_only() -> None:
    policy = policy_of({"id": "a", "text": "x", "mode": "replace", "applies_to": ["response"]})
    assert policy.uses_categories(Side.PROMPT)
    assert not policy.uses_categories(Side.RESPONSE)


def test_a_string_is_an_example_of_the_side_that_the_rule_is_about(tmp_path: Path) -> None:
    both = load_examples(rule_of(examples=["hi"], counter_examples=["no"]), tmp_path)
    assert both.violations[0].response == "hi"
    prompts = load_examples(rule_of(examples=["hi"], applies_to=["prompt"]), tmp_path)
    assert prompts.violations[0].prompt == "hi"


def test_one_file_holds_examples_counter_examples_other_rules_and_a_test_set(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p1", "violates": True},
        {"prompt": "p2", "violates": False},
        {"prompt": "q", "response": "abcdef", "violates": True, "rule_start": 3},
        {"prompt": "p3", "violates": True, "rule": "other"},
        {"prompt": "p4", "violates": True, "split": "test"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = load_examples(rule_of(examples="rows.jsonl", counter_examples="rows.jsonl"), tmp_path)
    assert [each.text for each in found.violations] == ["p1", "abcdef"]
    assert found.violations[1].start == 3
    assert [each.text for each in found.allowed] == ["p2"]


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": " "}', '{"response": "a", "start": 5}', '{"prompt": 3}'])
def test_a_wrong_row_is_named_and_not_repeated(tmp_path: Path, line: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": "fine"}}\n{line}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"rows\.jsonl, line 2"):
        load_examples(rule_of(examples="rows.jsonl"), tmp_path)


def test_a_missing_file_of_examples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_examples(rule_of(examples="rows.jsonl"), tmp_path)


def test_an_example_on_a_side_that_the_rule_is_not_about_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not apply"):
        load_examples(rule_of(examples=[{"prompt": "a"}], applies_to=["response"]), tmp_path)


def test_a_policy_with_examples_loads_only_with_what_was_taught_from_them(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    text = 'name = "own"\n[[rules]]\nid = "one"\ntext = "no"\nexamples = ["a"]\n'
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="not taught yet"):
        Policy.load(path)
    rule = Policy.load(path, needs_taught_rules=False).rules[0]
    bank = bank_of([rule_probe("one", digest=rule_digest(rule, tmp_path))])
    probe_path(path).write_bytes(bank.to_bytes())
    found = Policy.load(path).probe
    assert found is not None and found.rule_ids == {"one"}
    path.write_text(text.replace('["a"]', '["b"]'), encoding="utf-8")
    with pytest.raises(ConfigError, match="changed since"):
        Policy.load(path)
    path.write_text(text + '[[rules]]\nid = "two"\ntext = "no"\nexamples = ["a"]\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"of own\.toml was not taught"):
        Policy.load(path)
