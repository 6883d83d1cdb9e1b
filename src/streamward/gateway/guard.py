"""The interface of a guard that the gateway uses."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from streamward.policy import Policy
from streamward.schema import Decision, Event, Message, Result, SideResult


class JudgedStream(Protocol):
    """A response being judged, as `streamward.moderation.async_stream.AsyncGuardStream` does it."""

    @property
    def prompt(self) -> SideResult | None:
        """Judgement of the user's turn; None if there was none."""
        ...

    @property
    def decision(self) -> Decision:
        """Decision on everything seen so far."""
        ...

    @property
    def releasable_chars(self) -> int:
        """Characters from the start that were judged and are not over the policy's threshold."""
        ...

    async def feed(self, piece: str) -> list[Event]:
        """Judge the next piece."""
        ...

    async def feed_reasoning(self, piece: str) -> list[Event]:
        """Judge the next piece of reasoning, which comes before the rest."""
        ...

    async def truncate(self, num_chars: int) -> list[Event]:
        """Drop all but the first characters, and what was decided by the others."""
        ...

    async def finish(self) -> Result:
        """Judge what is left."""
        ...


OpenGuard = Callable[[Sequence[Message], Policy], AbstractAsyncContextManager[JudgedStream]]
"""Opens a stream behind a conversation, which ends with a user's turn or is empty. Entering it judges that turn."""
