"""Calls that wait for the thread that steps an engine, and how each is answered once."""

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from streamward.engine.outputs import StepOutput
from streamward.errors import GuardFailedError
from streamward.moderation.token_scorer import PendingScore, Segment

T = TypeVar("T")


class WorkerScore(PendingScore):
    """Scores that an engine's worker will give."""

    def __init__(self, is_worked_on: Callable[["WorkerScore"], bool]) -> None:
        """Begin to wait.

        Args:
            is_worked_on: Whether the worker knows of it and its thread lives.
        """
        super().__init__()
        self._is_worked_on = is_worked_on

    def check(self) -> None:
        """Fail if nobody works on it any more."""
        if not self.done() and not self._is_worked_on(self):
            fail(self, GuardFailedError("the guard's engine failed; try again later"))


@dataclass(slots=True, eq=False)
class WaitingRead:
    """Tokens on their way through the engine.

    Attributes:
        segments: What is not queued yet.
        owner: Key that the stream belongs to.
        progressed_at: When it was made, or its last tokens were read.
        done: Once it has ended, in whatever way, nobody waits any more.
        length: Length of the stream before; None until the first tokens are queued.
        num_left: Tokens of the stream that were not read at that time.
    """

    stream_id: int
    segments: list[Segment]
    owner: str | None
    progressed_at: float
    done: PendingScore
    length: int | None = None
    num_left: int = 0
    outputs: list[StepOutput] = field(default_factory=list)

    @property
    def num_unqueued(self) -> int:
        """Tokens that are not queued yet."""
        return sum(len(token_ids) for token_ids, _ in self.segments)


def succeed(done: "Future[T]", result: T) -> bool:
    """Hand over a result; False if somebody was faster."""
    try:
        done.set_result(result)
    except InvalidStateError:
        return False
    return True


def fail(done: "Future[Any]", error: Exception) -> bool:  # Any: whatever is waited for
    """Likewise an error."""
    try:
        done.set_exception(error)
    except InvalidStateError:
        return False
    return True
