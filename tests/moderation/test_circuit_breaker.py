"""A second guard that does not answer is left alone for a while; the policy decides meanwhile."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from streamward.errors import CallCancelledError, ConfigError, UpstreamError, UpstreamUnavailableError
from streamward.moderation.circuit_breaker import CircuitBreaker, CircuitPermit, CircuitState
from streamward.policy import Policy
from streamward.schema import Action, Category, Decision, FiredRule, RiskLevel, Side, SideResult
from tests.moderation.cascades import RULE, STRICT, TestSecondGuard, cascade, conversation

MAX_FAILURES, OPEN_S = 3, 10.0


class BreakerMachine(RuleBasedStateMachine):
    """Any order of questions, outcomes and waits, against a model of what was reported since the last change."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = CircuitBreaker(max_failures=MAX_FAILURES, open_s=OPEN_S, clock=lambda: self.now)
        self.failures_in_a_row = 0
        self.opened_at: float | None = None
        self.probe: CircuitPermit | None = None
        self.may_retry_at_once = False

    @rule(seconds=st.sampled_from([0.1, 1.0, 9.9, 10.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=permits)
    def ask(self) -> CircuitPermit | None:
        permit = self.breaker.admit()
        if self.opened_at is None:
            assert permit is not None and not permit.is_probe
        elif self.probe is not None or (self.now < self.opened_at + OPEN_S and not self.may_retry_at_once):
            assert permit is None
        else:
            assert permit is not None and permit.is_probe
            self.probe = permit
        return permit

    @rule(permit=consumes(permits))
    def answer(self, permit: CircuitPermit | None) -> None:
        if permit is None:
            return
        self.breaker.succeeded(permit)
        if permit is self.probe:
            self.probe, self.opened_at, self.failures_in_a_row = None, None, 0
            self.may_retry_at_once = False
        elif self._counts(permit):
            self.failures_in_a_row = 0

    @rule(permit=consumes(permits))
    def fail(self, permit: CircuitPermit | None) -> None:
        if permit is None:
            return
        counts = self._counts(permit) or permit is self.probe
        self.breaker.failed(permit)
        if counts:
            self.failures_in_a_row += 1
        if permit is self.probe or (counts and self.failures_in_a_row == MAX_FAILURES):
            self.probe, self.opened_at, self.may_retry_at_once = None, self.now, False

    @rule(permit=consumes(permits))
    def abandon(self, permit: CircuitPermit | None) -> None:
        if permit is None:
            return
        self.breaker.abandoned(permit)
        if permit is self.probe:
            self.probe, self.may_retry_at_once = None, True

    @precondition(lambda self: self.opened_at is not None)
    @invariant()
    def an_open_circuit_lets_one_question_through_at_most(self) -> None:
        expected = CircuitState.OPEN if self.probe is None else CircuitState.HALF_OPEN
        assert self.breaker.state is expected

    @precondition(lambda self: self.opened_at is None)
    @invariant()
    def fewer_failures_than_the_limit_keep_it_closed(self) -> None:
        assert self.breaker.state is CircuitState.CLOSED
        assert self.failures_in_a_row < MAX_FAILURES

    def _counts(self, permit: CircuitPermit) -> bool:
        return self.opened_at is None and permit.generation == self.breaker._generation


TestBreaker = BreakerMachine.TestCase


def dead(text: str) -> tuple[str, ...]:
    raise UpstreamUnavailableError("no answer")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def judged(guard, text: str = "~~ text.", policy: Policy = STRICT) -> Decision:
    return guard.judge(conversation(None, text), policy).decision


@pytest.mark.parametrize("on_error", [Action.BLOCK, Action.ALLOW])
def test_a_dead_guard_is_asked_a_few_times_then_the_policy_decides_until_a_probe_is_answered(on_error):
    second, clock = TestSecondGuard(dead), Clock()
    policy = Policy.parse({"name": "p", "on_error": {"response": on_error}}, source="test")
    guard = cascade(second, clock=clock, max_failures=2, retry_after_s=5.0)
    found = [judged(guard, policy=policy) for _ in range(6)]
    assert [(each.action, each.error) for each in found] == [(on_error, "upstream_unavailable")] * 6
    assert len(second.asked) == 2
    assert (guard.statistics().failed, guard.statistics().refused) == (2, 4)
    assert (guard.statistics().is_open, guard.statistics().openings) == (True, 1)
    clock.now = 5.0
    second.says = lambda text: ()
    assert judged(guard, policy=policy) == judged(guard, policy=policy)
    assert judged(guard, policy=policy).error is None
    assert (len(second.asked), guard.statistics().is_open) == (5, False)


def test_a_probe_that_fails_keeps_the_circuit_open():
    second, clock = TestSecondGuard(dead), Clock()
    guard = cascade(second, clock=clock, max_failures=1, retry_after_s=5.0)
    judged(guard)
    for clock.now in (5.0, 6.0, 9.9):
        judged(guard)
    assert len(second.asked) == 2
    assert guard.statistics().openings == 2


def test_answers_that_cannot_be_read_and_questions_that_were_cancelled_do_not_open_it():
    def unreadable(text: str) -> tuple[str, ...]:
        raise UpstreamError("the guard's answer is not one JSON object")

    def cancelled(text: str) -> tuple[str, ...]:
        raise CallCancelledError("gone")

    second = TestSecondGuard(unreadable)
    guard = cascade(second, max_failures=1)
    for _ in range(3):
        assert judged(guard).action is Action.BLOCK
    second.says = cancelled
    for _ in range(3):
        with pytest.raises(CallCancelledError):
            judged(guard)
    assert len(second.asked) == 6
    assert not guard.statistics().is_open


def test_a_cancelled_probe_leaves_the_next_question_to_probe():
    second, clock = TestSecondGuard(dead), Clock()
    guard = cascade(second, clock=clock, max_failures=1, retry_after_s=5.0)
    judged(guard)
    clock.now = 5.0

    def cancelled(text: str) -> tuple[str, ...]:
        raise CallCancelledError("gone")

    second.says = cancelled
    with pytest.raises(CallCancelledError):
        judged(guard)
    second.says = lambda text: ()
    assert judged(guard).error is None


def test_streams_meet_an_open_circuit_like_whole_texts():
    second = TestSecondGuard(dead)
    guard = cascade(second, max_failures=1)
    judged(guard)
    stream = guard.open_stream(conversation(None), STRICT, max_chars=1000)
    stream.feed("Fine. Not ~ sure. More.")
    assert stream.releasable_chars == len("Fine. Not ")
    assert stream.finish().decision.error == "upstream_unavailable"
    assert len(second.asked) == 1


def test_zero_failures_allowed_means_that_the_guard_is_always_asked():
    second = TestSecondGuard(dead)
    guard = cascade(second, max_failures=0)
    for _ in range(9):
        judged(guard)
    assert len(second.asked) == 9


def test_a_decision_names_rules_of_the_settings_like_those_of_the_policy_each_once():
    second = TestSecondGuard(lambda text: ("no-prices", "no-dates"))
    policy = Policy.parse(
        {"name": "p", "rules": [{"id": "no-dates", "text": "Do not name dates.", "action": "flag"}]}, source="test"
    )
    allow = {"response": {"unsafe": "flag", "controversial": "flag"}}
    guard = cascade(second, rules=[RULE])
    stream = guard.open_stream(conversation(None), policy.model_copy(update=_flagging(policy, allow)), max_chars=1000)
    stream.feed("One sentence. ")
    stream.feed("Another sentence. ")
    result = stream.finish()
    assert len(second.asked) == 2
    expected = (FiredRule("no-prices", 1.0), FiredRule("no-dates", 1.0))
    assert result.decision.rules == expected
    assert result.response is not None and result.response.rules == expected


def _flagging(policy: Policy, changes: dict) -> dict:
    return {"response": Policy.parse({"name": "p", **changes}, source="test").response}


def test_a_rule_of_the_settings_may_not_share_the_id_of_a_taught_rule():
    taught = {"id": "No-Prices", "text": "x", "examples": ["a"] * 5, "counter_examples": ["b"] * 5}
    policy = Policy.parse({"name": "p", "rules": [taught]}, source="test")
    with pytest.raises(ConfigError, match="two rules have the id"):
        cascade(TestSecondGuard(), rules=[RULE]).check_policy(policy)


def test_opinions_on_one_side_name_each_rule_once_with_its_highest_score():
    from streamward.moderation.second_opinion import SecondOpinion, with_opinion

    first = SideResult(RiskLevel.SAFE, None, {RiskLevel.SAFE: 1.0}, rules=(FiredRule("a", 0.6), FiredRule("b", 0.9)))
    decision = Decision(Action.FLAG, Side.RESPONSE, risk_level=RiskLevel.UNSAFE, category=Category.VIOLENT)
    opinion = SecondOpinion(decision, RiskLevel.UNSAFE, rules=(FiredRule("a", 0.8), FiredRule("c", 1.0)))
    merged = with_opinion(with_opinion(first, opinion), opinion)
    assert merged is not None
    assert merged.rules == (FiredRule("a", 0.8), FiredRule("b", 0.9), FiredRule("c", 1.0))
