"""Verdict -> Decision under a policy: the consecutive-token rule, what follows from it, and how two sides combine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from streamward.errors import CheckpointError, InputError, StreamwardError
from streamward.policy import Policy, total_risk
from streamward.rules.rule import Rule
from streamward.schema import Action, Category, Decision, FiredRule, RiskLevel, Side, SideResult, Verdict

ALLOWED = Decision(Action.ALLOW)
"""The decision when nothing crossed the policy's threshold."""


class _Snapshot(NamedTuple):
    """All that one verdict and those before it add up to; one per verdict makes rolling back a deletion."""

    decision: Decision = ALLOWED
    level: RiskLevel = RiskLevel.SAFE  # most severe held so far
    unsafe_run: int = 0  # successive verdicts up to this one that are Unsafe
    risky_run: int = 0  # successive verdicts up to this one that are Controversial or worse
    verdict: Verdict | None = None
    first_flagged: Verdict | None = None
    worst: Verdict | None = None
    worst_rank: tuple[int, int, float] = (-1, -1, -1.0)
    rule_runs: Mapping[str, int] = MappingProxyType({})  # successive verdicts up to this one at which a rule fires
    rules: Mapping[str, FiredRule] = MappingProxyType({})  # rules that held so far, with their highest scores


_START = _Snapshot()


class SideState:
    """One side of one stream as its verdicts come in.

    A level is held at a token when that token and the `consecutive_tokens - 1` before it all reach it. The category is
    that of the last of them, and its position is where the text counts as flagged. The same number of successive
    tokens makes a rule of the policy hold, whose severity and action then count like those of a level. A token costs
    the same however many came before; rolling back costs what is rolled back.
    """

    def __init__(self, policy: Policy, side: Side, *, consecutive_tokens: int | None = None) -> None:
        """Start with nothing seen and everything allowed.

        Args:
            policy: Thresholds, actions and rules.
            side: Side that the verdicts are of.
            consecutive_tokens: Instead of the policy's.
        """
        self._policy = policy
        self._side = side
        self._thresholds = policy.side(side)
        self._rules = {rule.id: rule for rule in policy.rules_for(side)}
        self._uses_categories = policy.uses_categories(side)
        self._consecutive_tokens = consecutive_tokens or policy.consecutive_tokens(side)
        self._history: list[_Snapshot] = []
        self._announced = ALLOWED

    def observe(self, verdict: Verdict) -> Decision:
        """Take in the next verdict and return the decision so far, which it never makes milder."""
        self._history.append(self._advance(self._latest, verdict, needed=self._consecutive_tokens))
        return self.decision

    def finish(self) -> Decision:
        """Return the decision on the complete text.

        A text of fewer verdicts than `consecutive_tokens` can never hold a level that long, so a run over the whole
        of it is enough: a one-token response is judged by that token. May be called again, or followed by more.
        """
        num_verdicts = len(self._history)
        if 0 < num_verdicts < self._consecutive_tokens:
            before = self._history[-2] if num_verdicts > 1 else _START
            last = self._latest.verdict
            assert last is not None
            self._history[-1] = self._advance(before, last, needed=num_verdicts)
        return self.decision

    def rollback(self, num_verdicts: int) -> None:
        """Forget all but the first verdicts, as when the end of a text is tokenised anew.

        Everything is as it was after them, save a decision that `announce` has made final.

        Raises:
            InputError: Not from 0 up to the number of verdicts seen.
        """
        if not 0 <= num_verdicts <= len(self._history):
            raise InputError(f"num_verdicts is {num_verdicts}; it must be from 0 to {len(self._history)}")
        del self._history[num_verdicts:]

    def truncate(self, num_verdicts: int) -> None:
        """Forget all but the first verdicts because their text is gone: a decision about it is taken back too.

        Raises:
            InputError: As `rollback`.
        """
        self.rollback(num_verdicts)
        self._announced = self._latest.decision

    def commit(self) -> Decision:
        """Return the decision so far and make it final: the caller acts on it, so no rollback takes it back."""
        self._announced = self.decision
        return self._announced

    @property
    def decision(self) -> Decision:
        """The decision so far."""
        current, announced = self._latest.decision, self._announced
        if current.action.severity > announced.action.severity:
            return current
        missing = {rule.id for rule in current.rules} - {rule.id for rule in announced.rules}
        if not missing:
            return announced
        return replace(announced, rules=self._ordered({rule.id: rule for rule in (*current.rules, *announced.rules)}))

    @property
    def num_verdicts(self) -> int:
        """Number of verdicts that were taken in and not rolled back."""
        return len(self._history)

    @property
    def level(self) -> RiskLevel:
        """The most severe level held so far, whatever its action."""
        return self._latest.level

    @property
    def first_flagged_position(self) -> int | None:
        """Position of the first token at which the action was not allow: the last token of its run."""
        flagged = self._latest.first_flagged
        return None if flagged is None else flagged.position

    @property
    def worst(self) -> Verdict | None:
        """The verdict that stands for this side; None before the first.

        The first at which the most severe level was held (of these, with the most severe action); if no level was
        held, the one with the highest P(Unsafe) + P(Controversial).
        """
        return self._latest.worst

    def side_result(self, *, thresholds: Mapping[RiskLevel, float], windows: int = 1) -> SideResult | None:
        """Return what all verdicts so far say together; None before the first.

        Args:
            thresholds: Thresholds of the guard itself, where the policy states none; empty for the most probable level.
            windows: Overlapping windows the text was judged in.
        """
        worst, flagged = self.worst, self._latest.first_flagged
        if worst is None:
            return None
        span = None if flagged is None else flagged.span
        return SideResult(
            risk_level=self.level,
            category=None if self.level is RiskLevel.SAFE else worst.category,
            probabilities=worst.probabilities,
            windows=windows,
            verdicts=tuple(each.verdict for each in self._history if each.verdict is not None),
            first_flagged_char=None if span is None else span.start,
            first_flagged_token=None if flagged is None or span is None else flagged.position,
            thresholds=self._thresholds.thresholds_for(worst.category, thresholds),
            categories=self._categories(worst),
            rules=self._ordered(self._latest.rules),
        )

    def _categories(self, worst: Verdict) -> tuple[Category, ...]:
        """Return the kinds of harm to report: the primary, and further ones over the policy's threshold."""
        if worst.category is None:
            return ()
        least = self._thresholds.category_threshold
        further = [each.category for each in worst.categories if each.probability >= least]
        return tuple(dict.fromkeys((worst.category, *further)))

    def _ordered(self, found: Mapping[str, FiredRule]) -> tuple[FiredRule, ...]:
        return tuple(found[rule_id] for rule_id in self._rules if rule_id in found)

    @property
    def _latest(self) -> _Snapshot:
        return self._history[-1] if self._history else _START

    def _advance(self, before: _Snapshot, verdict: Verdict, *, needed: int) -> _Snapshot:
        level = self._thresholds.level(verdict) if self._uses_categories else RiskLevel.SAFE
        unsafe_run = before.unsafe_run + 1 if level is RiskLevel.UNSAFE else 0
        risky_run = before.risky_run + 1 if level is not RiskLevel.SAFE else 0
        held = RiskLevel.SAFE
        if unsafe_run >= needed:
            held = RiskLevel.UNSAFE
        elif risky_run >= needed:
            held = RiskLevel.CONTROVERSIAL
        action = self._thresholds.action(held, verdict.category)
        category = verdict.category if action is not Action.ALLOW else None
        rule_runs = {fired.id: before.rule_runs.get(fired.id, 0) + 1 for fired in self._known(verdict)}
        rules = [fired for fired in verdict.rules if rule_runs[fired.id] >= needed]
        for fired in rules:
            rule = self._rules[fired.id]
            held = max(held, rule.severity, key=lambda each: each.severity)
            own = self._policy.rule_action(rule, self._side)
            if own.severity > action.severity:
                action, category = own, None
        rank = (held.severity, action.severity, total_risk(verdict) if held is RiskLevel.SAFE else 0.0)
        is_first_flag = before.first_flagged is None and action is not Action.ALLOW
        is_worst = rank > before.worst_rank
        all_rules = _with_highest(before.rules, rules)
        return _Snapshot(
            decision=self._decide(before.decision, action, held, category, verdict.position, all_rules),
            level=max(before.level, held, key=lambda each: each.severity),
            unsafe_run=unsafe_run,
            risky_run=risky_run,
            verdict=verdict,
            first_flagged=verdict if is_first_flag else before.first_flagged,
            worst=verdict if is_worst else before.worst,
            worst_rank=rank if is_worst else before.worst_rank,
            rule_runs=rule_runs,
            rules=all_rules,
        )

    def _known(self, verdict: Verdict) -> tuple[FiredRule, ...]:
        return known_rules(verdict, self._rules)

    def _decide(
        self,
        before: Decision,
        action: Action,
        level: RiskLevel,
        category: Category | None,
        position: int,
        rules: Mapping[str, FiredRule],
    ) -> Decision:
        fired = self._ordered(rules)
        if action.severity <= before.action.severity:
            return before if before.rules == fired else replace(before, rules=fired)
        place = position if self._side is Side.RESPONSE else None
        return _decision(self._policy, self._side, action, level=level, category=category, position=place, rules=fired)


def known_rules(verdict: Verdict, rules: Mapping[str, Rule]) -> tuple[FiredRule, ...]:
    """Return the rules that fire at a token.

    Raises:
        CheckpointError: One is not a rule of the policy: what judges the rules does not fit the policy.
    """
    if any(fired.id not in rules for fired in verdict.rules):
        raise CheckpointError("a verdict names a rule that the policy does not have; teach the policy's rules again")
    return verdict.rules


def token_action(policy: Policy, side: Side, verdict: Verdict) -> Action:
    """Return what one token asks for by itself, before any consecutive-token rule."""
    part, rules = policy.side(side), {rule.id: rule for rule in policy.rules_for(side)}
    actions = [policy.rule_action(rules[fired.id], side) for fired in known_rules(verdict, rules)]
    if policy.uses_categories(side):
        actions.append(part.action(part.level(verdict), verdict.category))
    return max(actions, key=lambda each: each.severity, default=Action.ALLOW)


def _with_highest(before: Mapping[str, FiredRule], rules: Sequence[FiredRule]) -> Mapping[str, FiredRule]:
    higher = {each.id: each for each in rules if each.id not in before or each.score > before[each.id].score}
    return {**before, **higher} if higher else before


def _decision(
    policy: Policy,
    side: Side,
    action: Action,
    *,
    level: RiskLevel,
    category: Category | None,
    position: int | None,
    rules: tuple[FiredRule, ...] = (),
) -> Decision:
    message = policy.replacement if action is Action.REPLACE else None
    return Decision(action, side, risk_level=level, category=category, position=position, message=message, rules=rules)


def decide(policy: Policy, side: Side, verdict: Verdict) -> Decision:
    """Return the decision on a whole text that has one verdict, as Gen guards give it."""
    decision = SideState(policy, side, consecutive_tokens=1).observe(verdict)
    return decision if decision == ALLOWED else replace(decision, position=None)


def decide_error(policy: Policy, side: Side, error: StreamwardError) -> Decision:
    """Return the decision on a text the guard could not judge; it carries the error's code even if allowed."""
    action = policy.on_error.prompt if side is Side.PROMPT else policy.on_error.response
    return Decision(action, side, risk_level=None, error=error.code)


def combine(prompt: Decision | None, response: Decision | None) -> Decision:
    """Return the most severe decision, the prompt's on ties; None is a side that was not judged.

    It names the rules that either side breaks. Where both allow, one that says the guard failed is kept, so that it is
    seen.
    """
    decisions = [decision for decision in (prompt, response) if decision is not None]
    worst = max(decisions, key=lambda each: (each.action.severity, _is_allowed_unjudged(each)), default=ALLOWED)
    rules = merge_rules(*(decision.rules for decision in decisions))
    return worst if rules == worst.rules else replace(worst, rules=rules)


def merge_rules(*findings: Sequence[FiredRule]) -> tuple[FiredRule, ...]:
    """Return each rule that several findings name, once, with its highest score, in the order of first mention."""
    rules: Mapping[str, FiredRule] = {}
    for found in findings:
        rules = _with_highest(rules, found)
    return tuple(rules.values())


def _is_allowed_unjudged(decision: Decision) -> bool:
    return decision.action is Action.ALLOW and decision.error is not None
