"""Gen guards behind a moderator: one judgement for each whole text."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

from streamward.decisions import combine, decide, decide_error
from streamward.errors import CheckpointError, InputError, UpstreamError
from streamward.generative.judgement import GenGuard, GenJudgement
from streamward.guard_call import GuardCall, current_call
from streamward.moderation.conversation import Conversation
from streamward.moderation.health import GuardHealth
from streamward.policy import Policy
from streamward.schema import Action, Category, Decision, Message, Result, RiskLevel, Side, SideResult, Verdict


def remote_guard(
    base_url: str,
    model: str,
    *,
    api_key: str | None = None,
    api_key_env: str | None = None,
    timeout_s: float = 30.0,
    max_retries: int = 2,
) -> "GenGuardAdapter":
    """Return a Gen guard behind an OpenAI-compatible endpoint, for a `Moderator`. Nothing is asked yet.

    Args:
        base_url: Up to and including `/v1`.
        model: Name of the guard there.
        api_key: Sent as a bearer token.
        api_key_env: Instead of it: the environment variable that holds it.
        timeout_s: As in `RemoteConfig`.
        max_retries: Further tries after a timeout, a lost connection, status 429 or 5xx.

    Raises:
        ConfigError: A value is wrong, or the environment variable holds no key.
    """
    from streamward.generative.config import RemoteConfig

    # Imported late: httpx takes longer to import than a guard to load.
    from streamward.generative.remote import RemoteGenGuard

    values = {
        "base_url": base_url,
        "model": model,
        "api_key": api_key,
        "api_key_env": api_key_env,
        "timeout_s": timeout_s,
        "max_retries": max_retries,
    }

    return GenGuardAdapter(RemoteGenGuard(RemoteConfig.parse(values, source="remote guard")))


class _Side(NamedTuple):
    """One side judged; no judgement if the guard failed."""

    judgement: SideResult | None
    decision: Decision


class GenGuardAdapter:
    """Judges the last user turn and the last assistant turn, each as a whole.

    A remote guard states a level without probabilities: they are 1 for that level and 0 for the others, so thresholds
    between them change nothing. An assistant's reasoning is judged like a response of its own, because templates leave
    it out; the worse of the two counts.
    """

    def __init__(self, guard: GenGuard) -> None:
        """Take over a guard."""
        self._guard = guard
        self._calls: set[GuardCall] = set()
        self._lock = threading.Lock()

    def judge(self, conversation: Conversation, policy: Policy) -> Result:
        """Judge a whole conversation.

        A side on which the guard fails has no judgement and the decision of the policy's `on_error`; what was found on
        the other side still counts.

        Raises:
            InputError: The template refuses the conversation.
            ContextLengthError: The conversation does not fit.
        """
        with self._counted():
            return self._judge_sides(conversation, policy)

    def _judge_sides(self, conversation: Conversation, policy: Policy) -> Result:
        prompt = response = None
        if conversation.has_prompt:
            prompt = self._judge_side(Side.PROMPT, conversation.context, policy)
        if conversation.response is not None:
            response = self._judge_side(Side.RESPONSE, [*conversation.context, conversation.response], policy)
        sides = [None if side is None else side.judgement for side in (prompt, response)]
        decisions = [None if side is None else side.decision for side in (prompt, response)]
        return Result(combine(*decisions), *sides)

    def open_stream(self, conversation: Conversation, policy: Policy, *, max_chars: int) -> NoReturn:
        """Refuse: a Gen guard has no verdict before the text ends.

        Raises:
            InputError: Always.
        """
        raise InputError("this guard judges whole texts only; load a Stream guard to judge a stream")

    def health(self) -> GuardHealth:
        """Say since when no call has gone on to another part of its text."""
        now = time.monotonic()
        with self._lock:
            return GuardHealth(wait_s=now - min((call.checked_at for call in self._calls), default=now))

    def close(self) -> None:
        """Close the guard."""
        self._guard.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        call = current_call()
        call.check()
        with self._lock:
            self._calls.add(call)
        try:
            with call.current():
                yield
        finally:
            with self._lock:
                self._calls.discard(call)

    def _judge_side(self, side: Side, messages: Sequence[Message], policy: Policy) -> _Side:
        *before, last = messages
        judged = [self._judge_last(side, messages, policy)]
        current_call().check()
        if last.reasoning:
            judged.append(self._judge_last(side, [*before, Message(last.role, last.reasoning)], policy))
        return max(judged, key=_severity)  # max returns the first of equals: the answer before the reasoning

    def _judge_last(self, side: Side, messages: Sequence[Message], policy: Policy) -> _Side:
        try:
            return _decided(self._guard.judge(messages), side, policy)
        except (UpstreamError, CheckpointError) as error:
            return _Side(None, decide_error(policy, side, error))


def _decided(found: GenJudgement, side: Side, policy: Policy) -> _Side:
    """Decide about each category named; the most severe action says which one is reported."""
    is_safe = found.risk_level is RiskLevel.SAFE
    categories: Sequence[Category | None] = (None,) if is_safe else found.categories or (None,)
    sides = []
    for category in categories:
        verdict = Verdict(0, found.risk_level, found.probabilities, category)
        level = policy.side(side).level(verdict)
        thresholds = policy.side(side).thresholds_for(category, {})
        sides.append(_Side(_judgement(found, level, category, thresholds), decide(policy, side, verdict)))
    return max(sides, key=_severity)  # max returns the first of equals


def _severity(side: _Side) -> tuple[int, bool, int]:
    """Rank by action, then by level; text allowed without a judgement is not hidden behind text judged safe."""
    judgement, decision = side
    is_allowed_unjudged = decision.action is Action.ALLOW and judgement is None
    return decision.action.severity, is_allowed_unjudged, -1 if judgement is None else judgement.risk_level.severity


def _judgement(
    found: GenJudgement, level: RiskLevel, category: Category | None, thresholds: Mapping[RiskLevel, float]
) -> SideResult:
    return SideResult(
        risk_level=level,
        category=None if level is RiskLevel.SAFE else category,
        probabilities=found.probabilities,
        refusal=found.refusal,
        windows=found.windows,
        thresholds=thresholds,
    )
