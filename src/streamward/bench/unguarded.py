"""A guard that allows everything without a look: what a service costs without one."""

from collections.abc import Sequence
from typing import cast

from streamward.decisions import ALLOWED
from streamward.detectors.finding import DetectorFinding
from streamward.moderation.conversation import Conversation
from streamward.moderation.guard_stream import GuardStream
from streamward.moderation.health import GuardHealth
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Decision, Event, Result


class _UnguardedStream:
    """Stands for a `GuardStream`: counts characters."""

    def __init__(self) -> None:
        self.prompt = None
        self.decision: Decision = ALLOWED
        self.releasable_chars = 0
        self.findings: Sequence[DetectorFinding] = ()

    def masked(self, start: int, end: int) -> None:
        """Nothing is masked."""

    def feed(self, piece: str | bytes | Sequence[int]) -> list[Event]:
        """Count; nothing is judged."""
        self.releasable_chars += len(piece)
        return []

    feed_reasoning = feed

    def so_far(self) -> Result:
        """Allow."""
        return Result(ALLOWED)

    def finish(self) -> Result:
        """Allow."""
        return Result(ALLOWED)

    def close(self) -> None:
        """Nothing is held."""


class _NoGuard:
    def judge(self, conversation: Conversation, policy: Policy) -> Result:
        """Allow."""
        del conversation, policy
        return Result(ALLOWED)

    def open_stream(self, conversation: Conversation, policy: Policy, *, max_chars: int) -> GuardStream:
        """Open a stream that allows everything."""
        del conversation, policy, max_chars
        return cast(GuardStream, _UnguardedStream())  # the service uses what is defined above

    def health(self) -> GuardHealth:
        """There is nothing that could fail."""
        return GuardHealth()

    def close(self) -> None:
        """Nothing is held."""


def unguarded(policy: Policy, *, max_workers: int) -> Moderator:
    """Return a moderator that allows everything. For measurements only: no option of the service leads here."""
    return Moderator(_NoGuard(), policy=policy, max_workers=max_workers)
