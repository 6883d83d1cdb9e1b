"""The interface of a response that is judged while it is generated, whoever judges it."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from streamward.detectors.finding import DetectorFinding
from streamward.moderation.coroutines import GuardCoroutine
from streamward.moderation.guard_stream import Piece
from streamward.schema import Decision, Event, Result, SideResult


class ResponseStream(Protocol):
    """A `GuardStream`, or one that asks further guards about the same text; see there.

    The coroutines hold no thread while they wait for an engine.
    """

    @property
    def prompt(self) -> SideResult | None:
        """Judgement of the user's turn; None if there was none."""
        ...

    @property
    def decision(self) -> Decision:
        """Decision on everything judged so far. It never becomes milder."""
        ...

    @property
    def releasable_chars(self) -> int:
        """Characters from the start that may be shown."""
        ...

    @property
    def response(self) -> SideResult:
        """Judgement of what was fed so far."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens judged so far."""
        ...

    def __enter__(self) -> Self:
        """Return the stream; it is closed at the end of the block."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        ...

    @property
    def findings(self) -> Sequence[DetectorFinding]:
        """Findings of the policy's detectors in the response, as far as they have decided."""
        ...

    def masked(self, start: int, end: int) -> str | None:
        """Return releasable characters as they may be shown; None where no detector reads the response."""
        ...

    def listen(self, on_text: Callable[[str], object]) -> None:
        """Have something else given the characters of the response too, as they are counted."""
        ...

    def add_prompt(self, earlier: Result) -> None:
        """Let a further prompt of the conversation count."""
        ...

    def feed(self, piece: Piece) -> list[Event]:
        """Judge the next piece of the response."""
        ...

    def feed_reasoning(self, piece: Piece) -> list[Event]:
        """Judge the next piece of what the assistant thinks before its answer."""
        ...

    def truncate(self, num_chars: int) -> list[Event]:
        """Drop all but the first characters, and what was decided by the others."""
        ...

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return what token ids say; nothing is fed."""
        ...

    def finish(self) -> Result:
        """Judge what is left and return the whole result. Closes the stream."""
        ...

    def so_far(self) -> Result:
        """Return the result of what was judged, as if the response ended there."""
        ...

    def cancel(self) -> None:
        """End the call that another thread makes, and every later one; does not wait."""
        ...

    def close(self) -> None:
        """Free what the stream holds; does not wait."""
        ...

    def is_quick(self, piece: Piece) -> bool:
        """Say whether feeding a piece costs its thread next to nothing, besides waiting for the engine."""
        ...

    def feed_coroutine(self, piece: Piece) -> GuardCoroutine[list[Event]]:
        """Do what `feed` does."""
        ...

    def feed_reasoning_coroutine(self, piece: Piece) -> GuardCoroutine[list[Event]]:
        """Do what `feed_reasoning` does."""
        ...

    def truncate_coroutine(self, num_chars: int) -> GuardCoroutine[list[Event]]:
        """Do what `truncate` does."""
        ...

    def finish_coroutine(self) -> GuardCoroutine[Result]:
        """Do what `finish` does."""
        ...
