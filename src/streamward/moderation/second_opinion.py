"""Asks a second guard about a text, and turns what it says into a decision of the policy."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from streamward.decisions import ALLOWED, decide_error, merge_rules
from streamward.errors import (
    CallCancelledError,
    GuardFailedError,
    StreamClosedError,
    StreamwardError,
    UpstreamUnavailableError,
)
from streamward.moderation.cascade_statistics import CascadeCounter, CascadeStatistics
from streamward.moderation.circuit_breaker import CircuitBreaker, CircuitPermit, CircuitState
from streamward.moderation.uncertainty import first_guard_policy
from streamward.policy import Policy
from streamward.policy_guards.built_in import BUILT_IN_RULES, CATEGORY_OF
from streamward.policy_guards.config import RuleConfig, SecondOpinionConfig
from streamward.policy_guards.rules import (
    GuardRule,
    RuleGuard,
    RuleOpinion,
    RuleTarget,
    check_rule_ids,
    check_rules,
)
from streamward.reasons import defect
from streamward.rules.rule import Rule
from streamward.schema import Action, Category, Decision, FiredRule, Message, RiskLevel, Side, SideResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """The outcome of a second guard's answer.

    Attributes:
        decision: What the policy concludes from it.
        risk_level: Safe if no rule is violated, else that of the rule that the decision is about; None if the guard
            failed.
        category: The built-in category of that rule, if it stands for one.
        opinions: One for each rule that was asked about.
        rules: Rules that are violated, of the policy and of the settings; built-in ones are told by their category.
    """

    decision: Decision
    risk_level: RiskLevel | None = RiskLevel.SAFE
    category: Category | None = None
    opinions: tuple[RuleOpinion, ...] = ()
    rules: tuple[FiredRule, ...] = ()


class SecondGuard:
    """A guard that reads rules, under the settings that say when it is asked. Thread-safe."""

    def __init__(
        self,
        guard: RuleGuard,
        config: SecondOpinionConfig,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take over a guard. Its rules have been checked by `check_config_rules`."""
        self.config = config
        self.counter = CascadeCounter()
        self.clock = clock
        """Seconds that only grow."""
        self._guard = guard
        self._breaker = CircuitBreaker(max_failures=config.max_failures, open_s=config.retry_after_s, clock=clock)
        self._rules = tuple(map(_rule, config.rules))

    @property
    def lower(self) -> float:
        """Probability of harm at and over which the first guard is unsure; more than 1 if it never is."""
        return 2.0 if self.config.band is None else self.config.band[0]

    def first_policy(self, policy: Policy) -> Policy:
        """Return the policy that the first guard decides by: without the rules in words, which it cannot read."""
        own = policy if policy.rules == policy.taught_rules else policy.with_rules(policy.taught_rules)
        return own if self.config.band is None else first_guard_policy(own, self.config.band[1])

    def rules(self, policy: Policy, targets: Collection[RuleTarget]) -> list[GuardRule]:
        """Return the rules that every text of some kinds is asked about."""
        own = (_policy_rule(rule) for rule in policy.rules if not rule.is_taught)
        return [rule for rule in (*self._rules, *own) if not rule.applies_to.isdisjoint(targets)]

    def check_policy(self, policy: Policy) -> None:
        """Refuse a policy with rules in words that this guard could not be asked about.

        Raises:
            ConfigError: One has the id of another rule that is asked about, or there are too many words.
        """
        # Also taught ones, because a decision names rules by id only.
        own = [_policy_rule(rule) for rule in policy.rules]
        names = {rule.id for rule in policy.taught_rules}
        check_rule_ids([*self._rules, *own, *BUILT_IN_RULES])
        asked = [rule for rule in own if rule.id not in names]
        check_rules([*self._rules, *asked, *(BUILT_IN_RULES if self.config.band is not None else ())])

    def ask(
        self,
        messages: Sequence[Message],
        *,
        policy: Policy,
        side: Side,
        targets: Collection[RuleTarget],
        is_unsure: bool,
        is_flagged: bool = False,
        position: int | None = None,
    ) -> SecondOpinion:
        """Ask about the last turn of a conversation.

        A guard that fails, in whatever way, gives the decision of the policy's `on_error`. So does one that has left
        too many questions in a row unanswered, without being asked.

        Args:
            messages: The conversation; what exceeds `max_context_chars` is left out.
            policy: In force.
            side: Whose turn it is.
            targets: What it is.
            is_unsure: Whether the built-in categories are asked about too.
            is_flagged: Whether the first guard would have flagged it, for the count of agreements.
            position: Token of a response that the decision is about.

        Raises:
            CallCancelledError: The current call was cancelled.
            StreamClosedError: The stream, or the guard, was closed.
        """
        rules = self.rules(policy, targets)
        if is_unsure:
            rules += [rule for rule in BUILT_IN_RULES if not rule.applies_to.isdisjoint(targets)]
        if not rules:
            return SecondOpinion(ALLOWED)
        self.counter.add(asked_unsure=int(is_unsure), asked_rules=int(not is_unsure))
        permit = self._breaker.admit()
        if permit is None:
            self.counter.add(refused=1)
            error = UpstreamUnavailableError("the second guard is not asked for now: it did not answer")
            return SecondOpinion(decide_error(policy, side, error), None)
        started = self.clock()
        try:
            report = self._guard.judge(_trimmed(messages, self.config.max_context_chars), rules, targets=targets)
        except (CallCancelledError, StreamClosedError):
            self._breaker.abandoned(permit)
            raise
        except Exception as error:  # after any error: a text without a second opinion must not pass
            self.counter.add(failed=1)
            self._failed(permit, error)
            known = error if isinstance(error, StreamwardError) else GuardFailedError("the second guard failed")
            logger.warning("no second opinion", extra={"guard_error": known.code, **defect(error)})
            return SecondOpinion(decide_error(policy, side, known), None)
        except BaseException:
            self._breaker.abandoned(permit)
            raise
        finally:
            self.counter.add(seconds=self.clock() - started)
        self._breaker.succeeded(permit)
        violated = [rule for rule in rules if any(_is_violated(each, rule) for each in report.opinions)]
        self.counter.answered(report.usage, first=is_flagged, second=bool(violated), is_unsure=is_unsure)
        return _concluded(violated, report.opinions, policy, side, position)

    def statistics(self) -> CascadeStatistics:
        """Return what second opinions have cost so far, how often they agreed, and whether the guard is left alone."""
        is_open = self._breaker.state is not CircuitState.CLOSED
        return replace(self.counter.statistics(), openings=self._breaker.num_openings, is_open=is_open)

    def close(self) -> None:
        """Close the guard."""
        self._guard.close()

    def _failed(self, permit: CircuitPermit, error: Exception) -> None:
        """Tell the circuit breaker: an answer that cannot be read, or is about the text, comes from a living guard."""
        if isinstance(error, UpstreamUnavailableError) or not isinstance(error, StreamwardError):
            before = self._breaker.num_openings
            self._breaker.failed(permit)
            if self._breaker.num_openings > before:
                logger.error("second guard left alone", extra={"retry_after_s": self.config.retry_after_s})
        else:
            self._breaker.succeeded(permit)


def check_config_rules(config: SecondOpinionConfig) -> None:
    """Refuse rules that no guard could be asked about together with the built-in ones.

    Raises:
        ConfigError: One cannot be.
    """
    check_rules([*map(_rule, config.rules), *(BUILT_IN_RULES if config.band is not None else ())])


def with_opinion(result: SideResult | None, opinion: SecondOpinion | None) -> SideResult | None:
    """Return a judgement in which the second opinion counts where it is worse."""
    if result is None or opinion is None or opinion.risk_level is None:
        return result
    result = replace(result, rules=merge_rules(result.rules, opinion.rules))
    if opinion.risk_level.severity <= result.risk_level.severity:
        return result
    return replace(result, risk_level=opinion.risk_level, category=opinion.category)


def _concluded(
    violated: Sequence[GuardRule],
    opinions: tuple[RuleOpinion, ...],
    policy: Policy,
    side: Side,
    position: int | None,
) -> SecondOpinion:
    """Decide about each violated rule; the most severe action says which one is reported, the first of equals."""
    found = [_decided(rule, opinions, policy, side, position) for rule in violated]
    worst = max(found, key=_rank, default=SecondOpinion(ALLOWED, opinions=opinions))
    fired = _fired(violated, opinions)
    return replace(worst, decision=replace(worst.decision, rules=fired), rules=fired) if fired else worst


def _fired(violated: Sequence[GuardRule], opinions: Sequence[RuleOpinion]) -> tuple[FiredRule, ...]:
    """Return the violated rules that stand for no built-in category; a guard that gives no score is sure."""
    scores = {each.rule_id: 1.0 if each.score is None else each.score for each in opinions}
    return tuple(FiredRule(rule.id, scores[rule.id]) for rule in violated if rule.id not in CATEGORY_OF)


def _decided(
    rule: GuardRule, opinions: tuple[RuleOpinion, ...], policy: Policy, side: Side, position: int | None
) -> SecondOpinion:
    category = CATEGORY_OF.get(rule.id)
    own = next((each for each in policy.rules if each.id == rule.id), None)
    action = policy.side(side).action(rule.severity, category) if own is None else policy.rule_action(own, side)
    if action is Action.ALLOW:
        return SecondOpinion(ALLOWED, rule.severity, category, opinions)
    message = policy.replacement if action is Action.REPLACE else None
    decision = Decision(action, side, risk_level=rule.severity, category=category, position=position, message=message)
    return SecondOpinion(decision, rule.severity, category, opinions)


def _rank(opinion: SecondOpinion) -> tuple[int, int]:
    level = opinion.risk_level
    return opinion.decision.action.severity, -1 if level is None else level.severity


def _is_violated(opinion: RuleOpinion, rule: GuardRule) -> bool:
    return opinion.rule_id == rule.id and opinion.violated


def _policy_rule(rule: Rule) -> GuardRule:
    """Return a rule in words of the policy as the guard is asked about it, with its exceptions."""
    exceptions = "".join(f"\nException: {each}" for each in rule.exceptions)
    targets = frozenset(RuleTarget(scope.value) for scope in rule.applies_to)
    return GuardRule(rule.id, rule.text + exceptions, rule.severity, targets)


def _rule(config: RuleConfig) -> GuardRule:
    return GuardRule(
        config.id,
        config.text,
        RiskLevel(config.severity),
        frozenset(map(RuleTarget, config.applies_to)),
        config.examples,
        config.counter_examples,
    )


def _trimmed(messages: Sequence[Message], max_chars: int) -> list[Message]:
    """Return the end of the last turn, and before it the turns whose end fits."""
    *before, last = messages
    kept, room = [_end_of(last, max_chars)], max_chars
    for message in reversed(before):
        if room <= 0:
            break
        kept.append(_end_of(message, room))
        room -= len(message.content) + len(message.reasoning or "")
    return kept[::-1]


def _end_of(message: Message, max_chars: int) -> Message:
    content = message.content[-max_chars:]
    room = max_chars - len(content)
    reasoning = (message.reasoning or "")[-room:] if room else ""
    return replace(message, content=content, reasoning=reasoning or None)
