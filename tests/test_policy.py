"""Policies, and the decisions they lead to."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamward.decisions import SideState, combine, decide, decide_error
from streamward.errors import ConfigError, InputError, UpstreamError
from streamward.policy import LOOSE, STRICT, Policy, SidePolicy
from streamward.schema import Action, Category, Decision, RiskLevel, Side, Verdict

POLICIES = Path(__file__).parent.parent / "configs" / "policies"
SAFE, CONTROVERSIAL, UNSAFE = RiskLevel
LETTERS = {"S": SAFE, "C": CONTROVERSIAL, "U": UNSAFE}
LIKELY = {
    SAFE: {SAFE: 0.9, CONTROVERSIAL: 0.08, UNSAFE: 0.02},
    CONTROVERSIAL: {SAFE: 0.2, CONTROVERSIAL: 0.7, UNSAFE: 0.1},
    UNSAFE: {SAFE: 0.1, CONTROVERSIAL: 0.2, UNSAFE: 0.7},
}


def verdict_of(level: RiskLevel, position: int = 0, category: Category = Category.VIOLENT) -> Verdict:
    return Verdict(position, level, LIKELY[level], category=None if level is SAFE else category)


def verdicts_of(letters: str) -> list[Verdict]:
    return [verdict_of(LETTERS[letter], position) for position, letter in enumerate(letters)]


def fed(policy: Policy, verdicts: Sequence[Verdict], side: Side = Side.RESPONSE) -> SideState:
    state = SideState(policy, side)
    for verdict in verdicts:
        state.observe(verdict)
    return state


def policy_of(**response: object) -> Policy:
    return Policy.parse({"name": "test", "replacement": "No.", "response": response}, source="test")


# --- Loading


@pytest.mark.parametrize("policy", [STRICT, LOOSE], ids=["strict", "loose"])
def test_a_built_in_policy_equals_its_file(policy: Policy) -> None:
    assert Policy.load(policy.name) is policy
    assert Policy.load(POLICIES / f"{policy.name}.toml") == policy


def test_the_example_policy_loads_with_all_it_states() -> None:
    policy = Policy.load(str(POLICIES / "example.toml"))
    assert policy.response.consecutive_tokens == 3
    assert policy.response.action(UNSAFE, Category.SELF_HARM) is Action.REPLACE
    assert policy.prompt.action(CONTROVERSIAL, Category.JAILBREAK) is Action.BLOCK
    assert policy.on_error.prompt is Action.FLAG


def test_a_policy_loads_as_itself() -> None:
    policy = policy_of()
    assert Policy.load(policy) is policy


def test_defaults_block_everything_risky_and_every_error() -> None:
    policy = Policy.parse({"name": "test"}, source="test")
    assert [policy.consecutive_tokens(side) for side in Side] == [1, 2]
    for side in (policy.prompt, policy.response):
        assert (side.unsafe, side.controversial) == (Action.BLOCK, Action.BLOCK)
    assert (policy.on_error.prompt, policy.on_error.response) == (Action.BLOCK, Action.BLOCK)


@pytest.mark.parametrize("response", [SidePolicy(controversial=Action.FLAG), {"controversial": "flag"}])
def test_a_response_needs_two_tokens_unless_it_says_otherwise(response: object) -> None:
    assert Policy.model_validate({"name": "test", "response": response}).consecutive_tokens(Side.RESPONSE) == 2


@pytest.mark.parametrize("side", list(Side))
def test_a_side_that_states_no_number_of_tokens_is_the_same_by_itself_and_in_a_policy(side: Side) -> None:
    alone = SidePolicy()
    assert Policy.model_validate({"name": "test", side.value: alone}).side(side) == alone
    assert Policy(name="test").side(side) == alone


def test_a_response_may_ask_for_one_token_in_code() -> None:
    policy = Policy(name="test", response=SidePolicy(consecutive_tokens=1))
    assert policy.consecutive_tokens(Side.RESPONSE) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version = '2'", "name"),
        ("name = ''", "name"),
        ("name = 'a'\nnmae = 'b'", "nmae"),
        ("name = 'a'\n[response]\nconsecutive_tokens = 0", "response.consecutive_tokens"),
        ("name = 'a'\n[response]\nconsecutive_tokens = true", "response.consecutive_tokens"),
        ("name = 'a'\n[response]\nconsecutive_tokens = '2'", "response.consecutive_tokens"),
        ("name = 'a'\n[prompt.thresholds]\nunsafe = 1.5", "prompt.thresholds.unsafe"),
        ("name = 'a'\n[prompt.thresholds]\nunsafe = nan", "prompt.thresholds.unsafe"),
        ("name = 'a'\n[prompt.thresholds]\nunsafe = '0.5'", "prompt.thresholds.unsafe"),
        ("name = 'a'\n[prompt]\nunsafe = 'stop'", "'allow', 'flag', 'replace' or 'block'"),
        ("name = 'a'\n[prompt]\nunsafe = 'replace'", "replacement"),
        ("name = 'a'\n[response.categories.PII]\ncontroversial = 'replace'", "replacement"),
        ("name = 'a'\nreplacement = 'b'\n[on_error]\nprompt = 'replace'", "on_error.prompt"),
        ("name = 'a'\n[prompt.categories.PII]\naction = 'block'", "prompt.categories.PII.action"),
        ("name = ", "is not TOML: line 1: a value must be"),
    ],
)
def test_a_wrong_file_is_refused_naming_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Policy.load(path)
    assert "mine.toml" in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_category_is_refused_with_a_list_of_the_nine(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("name = 'a'\n[prompt.categories.Violence]\nunsafe = 'block'", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Policy.load(path)
    assert all(category in str(caught.value) for category in Category)


@pytest.mark.parametrize("source", ["strickt", "no/such/file.toml", "a\0b", ".", 3, None])
def test_what_is_neither_name_nor_file_nor_policy_is_refused(source: str) -> None:
    with pytest.raises(ConfigError):
        Policy.load(source)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        Policy.load(path)


# --- Levels and actions


@pytest.mark.parametrize(
    ("thresholds", "level"),
    [
        ({}, CONTROVERSIAL),  # the guard's own word, though P(Unsafe) is below
        ({"unsafe": 0.1}, UNSAFE),
        ({"unsafe": 0.11}, CONTROVERSIAL),
        ({"controversial": 0.79}, CONTROVERSIAL),
        ({"controversial": 0.9}, SAFE),
        ({"unsafe": 0.11, "controversial": 0.9}, SAFE),
    ],
)
def test_thresholds_move_the_line(thresholds: dict[str, float], level: RiskLevel) -> None:
    assert policy_of(thresholds=thresholds).response.level(verdict_of(CONTROVERSIAL)) is level


def test_raising_the_unsafe_line_makes_unsafe_controversial_not_safe() -> None:
    assert policy_of(thresholds={"unsafe": 0.9}).response.level(verdict_of(UNSAFE)) is CONTROVERSIAL


def test_a_category_has_lines_of_its_own() -> None:
    side = policy_of(
        thresholds={"unsafe": 0.9, "controversial": 0.95}, categories={"PII": {"thresholds": {"unsafe": 0.5}}}
    ).response
    assert side.level(verdict_of(UNSAFE, category=Category.PII)) is UNSAFE
    assert side.level(verdict_of(UNSAFE, category=Category.VIOLENT)) is SAFE
    assert side.level(verdict_of(CONTROVERSIAL, category=Category.PII)) is SAFE


def test_a_category_changes_only_the_actions_it_names() -> None:
    side = policy_of(unsafe="block", controversial="flag", categories={"PII": {"unsafe": "allow"}}).response
    assert side.action(UNSAFE, Category.PII) is Action.ALLOW
    assert side.action(CONTROVERSIAL, Category.PII) is Action.FLAG
    assert side.action(UNSAFE, Category.VIOLENT) is Action.BLOCK
    assert side.action(UNSAFE, None) is Action.BLOCK


def test_safe_is_always_allowed() -> None:
    assert STRICT.response.action(SAFE, Category.VIOLENT) is Action.ALLOW


# --- Consecutive tokens


@pytest.mark.parametrize(
    ("letters", "flagged", "level"),
    [
        ("SSS", None, SAFE),
        ("SUS", None, SAFE),
        ("SUU", 2, UNSAFE),
        ("SUSUSUU", 6, UNSAFE),
        ("SUC", 2, CONTROVERSIAL),
        ("CUU", 1, UNSAFE),
        ("CUC", 1, CONTROVERSIAL),
    ],
)
def test_a_response_is_flagged_at_the_second_token_over_the_threshold(
    letters: str, flagged: int | None, level: RiskLevel
) -> None:
    state = fed(STRICT, verdicts_of(letters))
    assert (state.first_flagged_position, state.level) == (flagged, level)
    assert state.decision.position == flagged
    assert state.decision.action is (Action.ALLOW if flagged is None else Action.BLOCK)


def test_a_controversial_response_is_allowed_by_loose() -> None:
    state = fed(LOOSE, verdicts_of("SCCUC"))
    assert state.decision == Decision(Action.ALLOW)
    assert (state.level, state.first_flagged_position) == (CONTROVERSIAL, None)


def test_a_prompt_is_blocked_at_its_one_verdict_and_names_no_token() -> None:
    decision = fed(STRICT, verdicts_of("U"), Side.PROMPT).decision
    assert decision == Decision(Action.BLOCK, Side.PROMPT, UNSAFE, Category.VIOLENT)


def test_the_category_is_that_of_the_last_token_of_the_run() -> None:
    state = fed(STRICT, [verdict_of(UNSAFE, 0, Category.PII), verdict_of(UNSAFE, 1, Category.SEXUAL)])
    assert state.decision.category is Category.SEXUAL


def test_a_decision_becomes_more_severe_but_never_milder() -> None:
    policy = policy_of(controversial="flag")
    state = SideState(policy, Side.RESPONSE)
    actions = [state.observe(verdict).action.value for verdict in verdicts_of("SCCCUUSS")]
    assert actions == ["allow", "allow", "flag", "flag", "flag", "block", "block", "block"]
    assert (state.first_flagged_position, state.decision.position) == (2, 5)


def test_replace_comes_with_the_message() -> None:
    decision = fed(policy_of(unsafe="replace"), verdicts_of("UU")).decision
    assert (decision.action, decision.message) == (Action.REPLACE, "No.")


@pytest.mark.parametrize(("letters", "num_tokens"), [("U", 2), ("UU", 3)])
def test_a_response_shorter_than_the_run_is_judged_by_all_of_it(letters: str, num_tokens: int) -> None:
    state = fed(policy_of(consecutive_tokens=num_tokens), verdicts_of(letters))
    assert state.decision.action is Action.ALLOW
    assert state.finish().action is Action.BLOCK
    assert state.finish().position == state.first_flagged_position == len(letters) - 1


@pytest.mark.parametrize("letters", ["", "S", "SU", "US", "SSU"])
def test_finishing_does_not_lower_the_bar_for_part_of_a_response(letters: str) -> None:
    assert fed(policy_of(consecutive_tokens=3), verdicts_of(letters)).finish().action is Action.ALLOW


# --- The verdict that stands for a side


def test_nothing_stands_for_a_side_before_its_first_verdict() -> None:
    assert SideState(STRICT, Side.RESPONSE).worst is None


@pytest.mark.parametrize(
    ("letters", "position"),
    [("SCS", 1), ("SUSCS", 1), ("SUUU", 2), ("SCCUU", 4), ("SUSCC", 4)],
)
def test_the_peak_is_where_the_worst_level_was_held_or_else_where_risk_was_highest(letters: str, position: int) -> None:
    peak = fed(STRICT, verdicts_of(letters)).worst
    assert peak is not None
    assert peak.position == position


def test_of_equal_levels_the_peak_is_the_one_that_was_acted_on() -> None:
    policy = policy_of(consecutive_tokens=1, categories={"PII": {"unsafe": "allow"}})
    state = fed(policy, [verdict_of(UNSAFE, 0, Category.PII), verdict_of(UNSAFE, 1, Category.SEXUAL)])
    assert state.worst is not None
    assert state.worst.position == state.first_flagged_position == 1


# --- Rolling back


def test_rolling_back_takes_back_a_decision_nobody_heard_of() -> None:
    state = fed(STRICT, verdicts_of("SUU"))
    state.rollback(2)
    assert state.decision == Decision(Action.ALLOW)
    assert (state.num_verdicts, state.level, state.first_flagged_position) == (2, SAFE, None)
    assert state.observe(verdict_of(UNSAFE, 2)).position == 2


def test_rolling_back_keeps_a_decision_that_was_announced() -> None:
    state = fed(STRICT, verdicts_of("SUU"))
    announced = state.commit()
    state.rollback(0)
    assert state.decision == announced
    assert state.observe(verdict_of(SAFE)) == announced


@pytest.mark.parametrize("num_verdicts", [-1, 4])
def test_rolling_back_to_what_was_never_seen_is_refused(num_verdicts: int) -> None:
    state = fed(STRICT, verdicts_of("SSS"))
    with pytest.raises(InputError, match="num_verdicts"):
        state.rollback(num_verdicts)


def summary(state: SideState) -> tuple[object, ...]:
    return state.decision, state.level, state.first_flagged_position, state.worst, state.num_verdicts


LEVELS = st.lists(st.sampled_from(RiskLevel), max_size=12)


@given(before=LEVELS, replaced=LEVELS, after=LEVELS, num_tokens=st.integers(1, 4))
def test_a_rolled_back_stream_equals_one_that_never_saw_the_rest(
    before: list[RiskLevel], replaced: list[RiskLevel], after: list[RiskLevel], num_tokens: int
) -> None:
    policy = policy_of(consecutive_tokens=num_tokens, controversial="flag")
    state = fed(policy, [verdict_of(level, i) for i, level in enumerate(before + replaced)])
    state.rollback(len(before))
    for i, level in enumerate(after, start=len(before)):
        state.observe(verdict_of(level, i))
    plain = fed(policy, [verdict_of(level, i) for i, level in enumerate(before + after)])
    assert summary(state) == summary(plain)
    assert state.finish() == plain.finish()
    assert summary(state) == summary(plain)


@given(levels=st.lists(st.sampled_from(RiskLevel), min_size=1, max_size=30), num_tokens=st.integers(1, 5))
def test_the_held_level_is_the_worst_minimum_over_any_run(levels: list[RiskLevel], num_tokens: int) -> None:
    needed = min(num_tokens, len(levels))
    runs = [levels[start : start + needed] for start in range(len(levels) - needed + 1)]
    worst = max(min(level.severity for level in run) for run in runs)
    state = fed(policy_of(consecutive_tokens=num_tokens), [verdict_of(level, i) for i, level in enumerate(levels)])
    state.finish()
    assert state.level.severity == worst


# --- Whole texts, errors, both sides


def test_a_whole_text_is_decided_by_its_one_verdict() -> None:
    decision = decide(STRICT, Side.RESPONSE, verdict_of(UNSAFE))
    assert decision == Decision(Action.BLOCK, Side.RESPONSE, UNSAFE, Category.VIOLENT, position=None)
    assert decide(STRICT, Side.RESPONSE, verdict_of(SAFE)) == Decision(Action.ALLOW)
    assert decide(LOOSE, Side.PROMPT, verdict_of(CONTROVERSIAL)) == Decision(Action.ALLOW)


def test_an_error_is_never_safe() -> None:
    decision = decide_error(STRICT, Side.PROMPT, UpstreamError("no answer"))
    assert decision == Decision(Action.BLOCK, Side.PROMPT, risk_level=None, error="upstream_failed")


def test_an_error_is_seen_even_where_the_policy_allows_it() -> None:
    policy = Policy.parse({"name": "test", "on_error": {"response": "allow"}}, source="test")
    decision = decide_error(policy, Side.RESPONSE, UpstreamError("no answer"))
    assert (decision.action, decision.risk_level) == (Action.ALLOW, None)
    assert combine(Decision(Action.ALLOW), decision) == decision


def test_the_most_severe_side_decides_and_the_prompt_on_ties() -> None:
    prompt = Decision(Action.FLAG, Side.PROMPT, UNSAFE)
    response = Decision(Action.BLOCK, Side.RESPONSE, UNSAFE)
    flagged = Decision(Action.FLAG, Side.RESPONSE, UNSAFE)
    assert combine(prompt, response) == response
    assert combine(prompt, flagged) == prompt
    assert combine(None, flagged) == flagged
    assert combine(prompt, None) == prompt
    assert combine(None, None) == Decision(Action.ALLOW)


def test_thresholds_in_force_are_the_policys_where_it_states_any_else_the_guards() -> None:
    own = {RiskLevel.UNSAFE: 0.4, RiskLevel.CONTROVERSIAL: 0.6}
    rules = Policy.parse(
        {
            "name": "x",
            "prompt": {"thresholds": {"unsafe": 0.5}, "categories": {"PII": {"thresholds": {"controversial": 0.9}}}},
        },
        source="test",
    ).prompt
    assert rules.thresholds_for(None, own) == {RiskLevel.UNSAFE: 0.5, RiskLevel.CONTROVERSIAL: 0.6}
    assert rules.thresholds_for(Category.PII, own) == {RiskLevel.UNSAFE: 0.5, RiskLevel.CONTROVERSIAL: 0.9}
    assert rules.thresholds_for(None, {}) == {RiskLevel.UNSAFE: 0.5}
