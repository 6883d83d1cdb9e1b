"""Two guards as one: a fast one that judges every token, and a slower one that is asked where that is not enough."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import httpx

from streamward.decisions import SideState, combine
from streamward.engine.outputs import EngineStatistics
from streamward.errors import ConfigError
from streamward.moderation.cascade_statistics import CascadeStatistics
from streamward.moderation.cascade_stream import CascadeStream
from streamward.moderation.conversation import Conversation
from streamward.moderation.coroutines import run_blocking
from streamward.moderation.guard import (
    CalibratedGuard,
    Guard,
    HasEngineStatistics,
    RuleJudge,
    judge_with,
    open_stream_of,
)
from streamward.moderation.guard_stream import GuardStream
from streamward.moderation.health import GuardHealth
from streamward.moderation.response_stream import ResponseStream
from streamward.moderation.second_opinion import SecondGuard, SecondOpinion, check_config_rules, with_opinion
from streamward.moderation.uncertainty import risk
from streamward.policy import Policy
from streamward.policy_guards.config import SecondOpinionConfig
from streamward.policy_guards.guard import PolicyGuard, guard_format
from streamward.policy_guards.rules import RuleTarget
from streamward.schema import Action, Decision, Message, Result, RiskLevel, Side, SideResult


class CascadeGuard:
    """A `Guard` made of a first guard and a second one. Thread-safe.

    The first judges everything. Where the probability of harm is within the band of the settings, or a rule of the
    policy needs it, the second is asked, and the worse of the two counts; what the first alone would have flagged
    within the band, the second may let pass. A second guard that fails gives the decision of the policy's `on_error`.
    """

    def __init__(self, first: Guard, second: SecondGuard) -> None:
        """Take over both guards."""
        self._first = first
        self._second = second

    def check_policy(self, policy: Policy) -> None:
        """Refuse a policy with rules that neither guard can judge: the first taught ones, the second those in words.

        Raises:
            ConfigError: There is such a rule.
        """
        self._second.check_policy(policy)
        taught = self._second.first_policy(policy)
        if taught.rules:
            if not isinstance(self._first, RuleJudge):
                raise ConfigError("the policy has taught rules; they need a Stream guard whose engine runs here")
            self._first.check_policy(taught)

    def judge(self, conversation: Conversation, policy: Policy) -> Result:
        """Judge a whole conversation, with at most one question about each side; see `Guard.judge`."""
        return run_blocking(self.judge_coroutine(conversation, policy))

    async def judge_coroutine(self, conversation: Conversation, policy: Policy) -> Result:
        """Do what `judge` does, as a `GuardCoroutine`; it holds its thread while it waits for the second guard."""
        result = await judge_with(self._first, conversation, self._second.first_policy(policy))
        opinions: list[SecondOpinion] = []
        prompt = self._prompt_opinion(conversation, policy, result.prompt, result.decision)
        if prompt is not None:
            opinions.append(prompt)
        response = self._response_opinion(conversation, policy, result)
        if response is not None:
            opinions.append(response)
        decision = result.decision
        for opinion in opinions:
            decision = combine(decision, opinion.decision)
        return replace(
            result,
            decision=decision,
            prompt=with_opinion(result.prompt, prompt),
            response=with_opinion(result.response, response),
        )

    def open_stream(self, conversation: Conversation, policy: Policy, *, max_chars: int) -> ResponseStream:
        """Judge the prompt and wait for the response; see `Guard.open_stream`."""
        return run_blocking(self.open_stream_coroutine(conversation, policy, max_chars=max_chars))

    async def open_stream_coroutine(
        self, conversation: Conversation, policy: Policy, *, max_chars: int
    ) -> ResponseStream:
        """Do what `open_stream` does, as a `GuardCoroutine`."""
        taught = self._second.first_policy(policy)
        first = await open_stream_of(self._first, conversation, taught, max_chars=max_chars)
        assert isinstance(first, GuardStream), "a cascade has no cascade as its first guard"
        try:
            prompt = self._prompt_opinion(conversation, policy, first.prompt, first.decision)
            return CascadeStream(first, self._second, policy=policy, context=conversation.context, prompt=prompt)
        except BaseException:
            first.close()
            raise

    def thresholds(self, side: Side) -> Mapping[RiskLevel, float]:
        """Return the first guard's own thresholds of a side; the second has none."""
        return self._first.thresholds(side) if isinstance(self._first, CalibratedGuard) else {}

    def health(self) -> GuardHealth:
        """Say whether the first guard makes progress. The second has a deadline, after which the policy decides."""
        return self._first.health()

    def close(self) -> None:
        """Close both guards."""
        self._first.close()
        self._second.close()

    def engine_statistics(self) -> EngineStatistics | None:
        """Return the counts of the first guard's engine; None if it has none here."""
        return self._first.engine_statistics() if isinstance(self._first, HasEngineStatistics) else None

    def statistics(self) -> CascadeStatistics:
        """Return what second opinions have cost, and how often they agreed."""
        return self._second.statistics()

    def _prompt_opinion(
        self, conversation: Conversation, policy: Policy, judged: SideResult | None, decision: Decision
    ) -> SecondOpinion | None:
        if not conversation.has_prompt or judged is None:
            return None
        targets = _targets(conversation, Side.PROMPT)
        return self._opinion(conversation.context, policy, Side.PROMPT, targets, judged, decision)

    def _response_opinion(self, conversation: Conversation, policy: Policy, result: Result) -> SecondOpinion | None:
        if conversation.response is None or result.response is None:
            return None
        messages = [*conversation.context, conversation.response]
        targets = _targets(conversation, Side.RESPONSE)
        return self._opinion(messages, policy, Side.RESPONSE, targets, result.response, result.decision)

    def _opinion(
        self,
        messages: Sequence[Message],
        policy: Policy,
        side: Side,
        targets: Collection[RuleTarget],
        result: SideResult,
        decision: Decision,
    ) -> SecondOpinion | None:
        """Ask about a whole turn, if that is needed and the first guard has not stopped it anyway."""
        last = messages[-1]
        if decision.action.severity >= Action.REPLACE.severity or not (last.content + (last.reasoning or "")).strip():
            return None
        self._second.counter.add(judged=1)
        is_unsure = _highest_risk(policy, side, result) >= self._second.lower
        if not is_unsure and not self._second.rules(policy, targets):
            return None
        is_flagged = _is_flagged(policy, side, result)
        return self._second.ask(
            messages, policy=policy, side=side, targets=targets, is_unsure=is_unsure, is_flagged=is_flagged
        )


def check_second_opinion(config: SecondOpinionConfig) -> None:
    """Refuse settings of a second guard that cannot work; nothing is opened.

    Raises:
        ConfigError: A rule cannot be asked about, a setting does not go with the format, or a key is missing.
    """
    guard_format(config.guard)
    config.guard.secret()
    check_config_rules(config)


def with_second_opinion(
    config: SecondOpinionConfig, *, transport: httpx.AsyncBaseTransport | None = None
) -> Callable[[Guard], Guard]:
    """Return what puts a second guard beside a first one, for `Moderator.wrap_guard`. Nothing is opened before.

    Args:
        config: Where the second guard is, and when it is asked.
        transport: Transport of its endpoint; replaced in tests.

    Raises:
        ConfigError: As `check_second_opinion`.
    """
    check_second_opinion(config)
    return lambda first: CascadeGuard(first, SecondGuard(PolicyGuard(config.guard, transport=transport), config))


def _targets(conversation: Conversation, side: Side) -> set[RuleTarget]:
    return {RuleTarget(scope.value) for scope in conversation.scopes if scope.side is side}


def _is_flagged(policy: Policy, side: Side, result: SideResult) -> bool:
    """Return whether the first guard alone would have flagged a text."""
    state = SideState(policy, side)
    for verdict in result.verdicts:
        state.observe(verdict)
    return state.finish().action is not Action.ALLOW


def _highest_risk(policy: Policy, side: Side, result: SideResult) -> float:
    rules = policy.side(side)
    risks = [risk(rules, verdict.probabilities, verdict.category) for verdict in result.verdicts]
    return max([*risks, risk(rules, result.probabilities, result.category)])
