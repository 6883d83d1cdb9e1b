"""Rules of the policy beside the guard's own heads."""

from collections.abc import Mapping
from typing import Any

import pytest

from streamward.errors import ConfigError
from streamward.model.fingerprint import GuardIdentity
from streamward.moderation.moderator import Moderator
from streamward.policy import STRICT, Policy
from streamward.rules.probe import CHANNELS
from streamward.schema import Action, RiskLevel, Side
from tests.moderation.guards import stream_guard
from tests.rules.banks import ALWAYS, IDENTITY, NEVER, bank_of, policy_with, rule_probe, small_guard

TEXT = "the thing is that the ring was in the thinner tin all along, she thinks"
ALLOW_CATEGORIES: Mapping[str, Any] = {
    "prompt": {"unsafe": "allow", "controversial": "allow"},
    "response": {"unsafe": "allow", "controversial": "allow"},
}


def test_every_rule_that_fires_is_named_with_its_score_in_the_order_of_the_policy() -> None:
    policy = policy_with(
        {"id": "c", "action": "flag"},
        {"id": "a", "action": "block"},
        {"id": "b", "action": "block"},
        thresholds={"c": ALWAYS, "a": ALWAYS, "b": NEVER},
        **ALLOW_CATEGORIES,
    )
    with Moderator(small_guard(), policy=policy) as moderator:
        result = moderator.moderate(prompt="hello there", response=TEXT)
    for side in (result.prompt, result.response):
        assert side is not None
        assert [rule.id for rule in side.rules] == ["c", "a"]
        assert all(rule.score == pytest.approx(1.0) for rule in side.rules)
        assert side.risk_level is RiskLevel.UNSAFE
    assert result.decision.action is Action.BLOCK
    assert [rule.id for rule in result.decision.rules] == ["c", "a"]
    assert result.decision.category is None


def test_a_rule_judges_only_the_sides_it_is_about() -> None:
    policy = policy_with(
        {"id": "a", "applies_to": ["response"], "action": "block"}, thresholds={"a": ALWAYS}, **ALLOW_CATEGORIES
    )
    with Moderator(small_guard(), policy=policy) as moderator:
        result = moderator.moderate(prompt="hello there", response=TEXT)
    assert result.prompt is not None and result.prompt.rules == ()
    assert result.decision.side is Side.RESPONSE


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_rules_fire_at_the_same_tokens_however_the_text_is_cut(size: int) -> None:
    policy = policy_with({"id": "a", "action": "flag"}, thresholds={"a": None}, **ALLOW_CATEGORIES)
    with Moderator(small_guard(), policy=policy) as moderator:
        whole = moderator.moderate(response=TEXT)
        with moderator.stream() as stream:
            for start in range(0, len(TEXT), size):
                stream.feed(TEXT[start : start + size])
            pieces = stream.finish()
    assert whole.response is not None and pieces.response is not None
    fired = [[rule.id for rule in verdict.rules] for verdict in whole.response.verdicts]
    assert [[rule.id for rule in verdict.rules] for verdict in pieces.response.verdicts] == fired
    assert ["a"] in fired and [] in fired  # else nothing was compared


def test_rules_change_nothing_of_what_the_guard_says_itself() -> None:
    policy = policy_with({"id": "a", "action": "flag"}, thresholds={"a": ALWAYS})
    with Moderator(small_guard(), policy=policy) as moderator:
        with_rules = moderator.moderate(prompt="hello there", response=TEXT)
        without = moderator.with_policy(STRICT).moderate(prompt="hello there", response=TEXT)
    for side in ("prompt", "response"):
        one, other = getattr(with_rules, side), getattr(without, side)
        for left, right in zip(one.verdicts, other.verdicts, strict=True):
            assert left.probabilities == pytest.approx(right.probabilities, abs=1e-5)


def test_text_over_a_rule_is_held_back() -> None:
    policy = policy_with(
        {"id": "a", "action": "block"},
        thresholds={"a": ALWAYS},
        response={"unsafe": "allow", "controversial": "allow", "consecutive_tokens": 3},
    )
    with Moderator(small_guard(), policy=policy) as moderator, moderator.stream() as stream:
        stream.feed(TEXT[:12])
        released = stream.releasable_chars
        stream.feed(TEXT[12:])
        assert stream.decision.action is Action.BLOCK
        assert stream.releasable_chars <= max(released, 8)


@pytest.mark.parametrize("response", ["a", "ab", "abc!", "abcde!"])
def test_the_shortest_responses_are_judged_by_rules_too(response: str) -> None:
    policy = policy_with({"id": "a", "action": "block"}, thresholds={"a": ALWAYS}, **ALLOW_CATEGORIES)
    with Moderator(small_guard(), policy=policy) as moderator:
        assert moderator.moderate(response=response).decision.action is Action.BLOCK


def test_a_rule_of_mode_replace_silences_the_categories() -> None:
    policy = policy_with(
        {"id": "a", "mode": "replace", "action": "flag", "applies_to": ["response"]}, thresholds={"a": NEVER}
    )
    with Moderator(small_guard(), policy=policy) as moderator:
        strict = moderator.with_policy(STRICT).moderate(response=TEXT)
        replaced = moderator.moderate(response=TEXT)
    assert strict.decision.action is Action.BLOCK
    assert replaced.decision.action is Action.ALLOW


def test_two_policies_over_one_guard_judge_by_their_own_rules_and_open_streams_keep_theirs() -> None:
    first = policy_with({"id": "a", "action": "block"}, thresholds={"a": ALWAYS}, **ALLOW_CATEGORIES)
    second = policy_with({"id": "a", "action": "block"}, thresholds={"a": NEVER}, **ALLOW_CATEGORIES)
    with Moderator(small_guard(), policy=first) as moderator, moderator.stream() as old:
        old.feed("the ")
        others = [policy_with({"id": "b"}, thresholds={"b": float(number)}, **ALLOW_CATEGORIES) for number in range(12)]
        for other in (second, *others):  # more than the engine keeps
            moderator.with_policy(other).moderate(response=TEXT)
        assert moderator.with_policy(second).moderate(response=TEXT).decision.action is Action.ALLOW
        old.feed(TEXT)
        assert old.decision.action is Action.BLOCK


def test_rules_of_another_guard_are_refused() -> None:
    policy = policy_with({"id": "a"}, thresholds={"a": ALWAYS}, identity=GuardIdentity("other", "f" * 16))
    with pytest.raises(ConfigError, match="taught on the guard 'other'"):
        Moderator(small_guard(), policy=policy)


def test_a_guard_of_unknown_weights_judges_no_rules() -> None:
    policy = policy_with({"id": "a"}, thresholds={"a": ALWAYS})
    with pytest.raises(ConfigError, match="Stream guard"):
        Moderator(stream_guard(), policy=policy)


def test_a_rule_in_words_only_is_refused_by_a_guard_that_cannot_read() -> None:
    policy = Policy.parse({"name": "own", "rules": [{"id": "a", "text": "no"}]}, source="test")
    with pytest.raises(ConfigError, match="no examples"):
        Moderator(small_guard(), policy=policy)
    with Moderator(small_guard(), policy=STRICT) as moderator, pytest.raises(ConfigError, match="no examples"):
        moderator.with_policy(policy)


def test_a_rule_that_was_not_taught_is_refused() -> None:
    taught = policy_with({"id": "a"}, {"id": "b"}, thresholds={"a": ALWAYS, "b": ALWAYS})
    bank = bank_of([rule_probe("a")])
    with pytest.raises(ConfigError, match="'b' was not taught"):
        Moderator(small_guard(), policy=taught.with_probe(bank))


def test_rules_that_cannot_be_scored_fail_closed() -> None:
    policy = policy_with({"id": "a"}, thresholds={"a": NEVER}, **ALLOW_CATEGORIES)
    probe = policy.probe
    assert probe is not None
    huge = rule_probe("a", threshold=NEVER)
    broken = bank_of([huge])
    object.__setattr__(broken.rules[0], "weights", broken.rules[0].weights * float("inf"))
    with Moderator(small_guard(), policy=policy.with_probe(broken)) as moderator:
        result = moderator.moderate(response=TEXT)
    assert result.decision.action is Action.BLOCK
    assert result.decision.error is not None


def test_a_long_prompt_is_judged_by_rules_in_every_window() -> None:
    policy = policy_with(
        {"id": "a", "action": "block", "applies_to": ["prompt"]}, thresholds={"a": ALWAYS}, **ALLOW_CATEGORIES
    )
    with Moderator(small_guard(window_tokens=128), policy=policy) as moderator:
        result = moderator.moderate(prompt=TEXT * 8)
    assert result.prompt is not None and result.prompt.windows > 1
    assert all([rule.id for rule in verdict.rules] == ["a"] for verdict in result.prompt.verdicts)


def test_a_file_of_rules_is_small() -> None:
    bank = bank_of([rule_probe(f"rule-{number}", seed=number) for number in range(10)])
    per_rule = len(bank.to_bytes()) / 10
    assert per_rule < 4 * len(CHANNELS) * 32 + 2000
    assert IDENTITY.fingerprint == bank.fingerprint
