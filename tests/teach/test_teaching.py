"""Teaching on a small guard with random weights: whatever it sees of letters is enough to tell these texts apart."""

import json
from pathlib import Path

import numpy as np
import pytest

from streamward.errors import ConfigError
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.rules.probe import ProbeBank, probe_path
from streamward.rules.rule import RuleExample
from streamward.schema import Action
from streamward.teach import ordinary, reference
from streamward.teach.teaching import prepare, teach
from tests.rules.banks import small_guard

REAL_REFERENCE = reference.read_reference
WORDS = ("the", "ring", "thing", "all", "tin", "ant", "other", "inn", "hall", "then", "near", "long")


def texts(count: int, ending: str, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join([*rng.choice(WORDS, 6), ending]) for _ in range(count)]


def policy_of(examples: list[str], counter_examples: list[str]) -> Policy:
    rule = {
        "id": "shouting",
        "text": "no zz",
        "examples": examples,
        "counter_examples": counter_examples,
        "applies_to": ["response"],
        "action": "block",
    }
    allow = {"unsafe": "allow", "controversial": "allow"}
    return Policy.parse({"name": "own", "rules": [rule], "response": allow, "prompt": allow}, source="test")


@pytest.fixture(autouse=True)
def few_ordinary_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def examples(seed: int) -> list[RuleExample]:
        responses = [RuleExample(prompt="hello", response=text) for text in texts(12, "0123 4567", seed)]
        return responses + [RuleExample(prompt=text) for text in texts(12, "0123", seed)]

    monkeypatch.setattr(ordinary, "ordinary_examples", lambda: (examples(1), examples(2)))
    rows = [RuleExample(response=text) for text in texts(16, "yyyy", 3)]
    monkeypatch.setattr(reference, "read_reference", lambda: (["a"] * 8 + ["b"] * 8, rows, [True, False] * 8))
    monkeypatch.setenv("STREAMWARD_CACHE", str(tmp_path / "cache"))


def test_a_rule_is_taught_written_loaded_and_fires_on_new_texts(tmp_path: Path) -> None:
    policy = policy_of(texts(12, "ZZZZZZ ZZZZZZ ZZZZZZ", 3), texts(12, "qqqqqq qqqqqq qqqqqq", 4))
    guard = small_guard()
    bank, (report,) = teach(policy, tmp_path, guard)
    assert report.is_learnt and report.recall >= 0.7
    assert any("shouting: learnt" in line for line in report.lines())
    probe_path(tmp_path / "own.toml").write_bytes(bank.to_bytes())
    read = ProbeBank.from_bytes(bank.to_bytes(), source="test")
    with Moderator(guard, policy=policy.with_probe(read)) as moderator:
        fired = [moderator.moderate(response=text).decision for text in texts(10, "ZZZZZZ ZZZZZZ ZZZZZZ", 5)]
        silent = [moderator.moderate(response=text).decision for text in texts(10, "qqqqqq qqqqqq qqqqqq", 6)]
    assert sum(each.action is Action.BLOCK for each in fired) >= 8
    assert sum(each.action is Action.BLOCK for each in silent) <= 2


def test_a_rule_that_cannot_be_learnt_is_not_armed_without_force(tmp_path: Path) -> None:
    policy = policy_of(texts(14, "aa", 7), texts(14, "aa", 8))
    guard = small_guard()
    with Moderator(guard, policy=Policy.load("strict")):
        bank, (report,) = teach(policy, tmp_path, guard)
        assert not report.is_learnt
        assert bank.rules == ()
        assert any("NOT LEARNT" in line for line in report.lines())
        forced, _ = teach(policy, tmp_path, guard, force=True)
        assert [rule.rule_id for rule in forced.rules] == ["shouting"]


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 examples"):
        teach(policy_of(["a", "b"], texts(10, "x", 1)), tmp_path, small_guard())


def test_a_prepared_guard_reads_the_examples_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = small_guard()
    told: list[str] = []
    prepare(guard, tell=told.append)
    assert "reading ordinary traffic, once for this guard: 48 of 48 texts" in told
    assert "reading other rules, once for this guard: 16 of 16 texts" in told
    for module in (ordinary, reference):
        monkeypatch.setattr(module, "read_told", lambda *given, **named: pytest.fail("read again"))
    policy = policy_of(texts(12, "ZZZZZZ ZZZZZZ ZZZZZZ", 3), texts(12, "qqqqqq qqqqqq qqqqqq", 4))
    told.clear()
    bank, _ = teach(policy, tmp_path, guard, tell=told.append)
    assert [rule.rule_id for rule in bank.rules] == ["shouting"]
    assert told == ["teaching shouting: 12 examples, 12 counter-examples"]


def test_another_guard_is_not_taught_on_what_the_first_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary.ordinary_traffic(small_guard(), fingerprint="first")
    told: list[str] = []
    ordinary.ordinary_traffic(small_guard(), fingerprint="second", tell=told.append)
    assert told


def test_ordinary_traffic_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = small_guard()
    first = ordinary.ordinary_traffic(guard, fingerprint="f")
    monkeypatch.setattr(ordinary, "ordinary_examples", lambda: pytest.fail("read again"))
    second = ordinary.ordinary_traffic(guard, fingerprint="f")
    assert len(first.for_teaching) == len(second.for_teaching)
    assert np.array_equal(first.for_calibration[-1].rows, second.for_calibration[-1].rows)


def test_reference_rules_are_read_once_and_leave_out_a_rule_that_shares_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = small_guard()
    traffic = ordinary.ordinary_traffic(guard, fingerprint="f")
    first = reference.reference_rules(guard, traffic, fingerprint="f")
    monkeypatch.setattr(reference, "read_told", lambda *given, **named: pytest.fail("read again"))
    second = reference.reference_rules(guard, traffic, fingerprint="f")
    own = reference.read_reference()[1][0].text
    assert np.array_equal(first.direction([]), second.direction(["something else"]))
    assert np.array_equal(first.direction([own]), first.common.without(frozenset({0})))
    assert not np.array_equal(first.direction([own]), first.direction([]))


def test_reference_rules_are_the_train_split_of_the_set_that_measures_rules() -> None:
    rules, examples, labels = REAL_REFERENCE()
    expected = []
    for path in sorted((Path(__file__).parents[2] / "datasets" / "rules").glob("*.jsonl")):
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        expected += [row for row in rows if row["split"] == "train"]
    assert rules == [row["rule"] for row in expected]
    assert labels == [row["violates"] for row in expected]
    found = [(each.prompt, each.response, each.start) for each in examples]
    assert found == [(row["prompt"], row["response"], row["rule_start"]) for row in expected]
