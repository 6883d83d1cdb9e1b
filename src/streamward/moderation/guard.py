"""The interface of a guard that a moderator uses, and what some guards offer besides."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from streamward.engine.outputs import EngineStatistics
from streamward.moderation.conversation import Conversation
from streamward.moderation.coroutines import GuardCoroutine
from streamward.moderation.health import GuardHealth
from streamward.moderation.response_stream import ResponseStream
from streamward.policy import Policy
from streamward.schema import Result, RiskLevel, Side


class Guard(Protocol):
    """A model behind a moderator."""

    def judge(self, conversation: Conversation, policy: Policy) -> Result:
        """Judge a whole conversation.

        Raises:
            UpstreamError: The model is elsewhere and failed.
            CheckpointError: The model gave no usable answer.
        """
        ...

    def open_stream(self, conversation: Conversation, policy: Policy, *, max_chars: int) -> ResponseStream:
        """Read a conversation's context and wait for the response, of at most so many characters.

        Raises:
            InputError: This kind of guard judges whole texts only.
        """
        ...

    def health(self) -> GuardHealth:
        """Say whether the guard makes progress."""
        ...

    def close(self) -> None:
        """Free what the guard holds; calls that are being made end with a StreamClosedError."""
        ...


@runtime_checkable
class RuleJudge(Protocol):
    """A guard that can judge rules of the policy's own."""

    def check_policy(self, policy: Policy) -> None:
        """Refuse a policy with rules that this guard cannot judge.

        Raises:
            ConfigError: There is such a rule.
        """
        ...


@runtime_checkable
class CalibratedGuard(Protocol):
    """A guard with an operating point of its own."""

    def thresholds(self, side: Side) -> Mapping[RiskLevel, float]:
        """Return the guard's own thresholds of a side; empty where the most probable level counts."""
        ...


@runtime_checkable
class HasEngineStatistics(Protocol):
    """A guard that may have an engine in this process."""

    def engine_statistics(self) -> EngineStatistics | None:
        """Return what the engine has computed and reused so far; None if the engines are elsewhere."""
        ...


@runtime_checkable
class CoroutineGuard(Protocol):
    """A guard whose calls hold no thread while they wait for an engine."""

    def judge_coroutine(self, conversation: Conversation, policy: Policy) -> GuardCoroutine[Result]:
        """Do what `judge` does."""
        ...

    def open_stream_coroutine(
        self, conversation: Conversation, policy: Policy, *, max_chars: int
    ) -> GuardCoroutine[ResponseStream]:
        """Do what `open_stream` does."""
        ...


async def judge_with(guard: Guard, conversation: Conversation, policy: Policy) -> Result:
    """Have any guard judge a conversation, as a `GuardCoroutine`."""
    if isinstance(guard, CoroutineGuard):
        return await guard.judge_coroutine(conversation, policy)
    return guard.judge(conversation, policy)


async def open_stream_of(guard: Guard, conversation: Conversation, policy: Policy, *, max_chars: int) -> ResponseStream:
    """Have any guard open a stream, as a `GuardCoroutine`."""
    if isinstance(guard, CoroutineGuard):
        return await guard.open_stream_coroutine(conversation, policy, max_chars=max_chars)
    return guard.open_stream(conversation, policy, max_chars=max_chars)
