"""Calls that wait for the thread that steps an engine, and how each is answered once."""

from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from streamward.engine.outputs import StepOutput
from streamward.moderation.token_scorer import Segment

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class WaitingRead:
    """Tokens on their way through the engine.

    Attributes:
        segments: What is not queued yet.
        progressed_at: When it was made, or its last tokens were read.
        length: Length of the stream before; None until the first tokens are queued.
        num_left: Tokens of the stream that were not read at that time.
        done: Once it has ended, in whatever way, nobody waits any more.
    """

    stream_id: int
    segments: list[Segment]
    progressed_at: float
    length: int | None = None
    num_left: int = 0
    outputs: list[StepOutput] = field(default_factory=list)
    done: "Future[list[StepOutput]]" = field(default_factory=Future)


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
