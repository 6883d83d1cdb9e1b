"""An answer in progress beside its guard stream: what may leave, and what is dropped when it is flagged."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self

from streamward.errors import StreamwardError
from streamward.intervene.places import CodeBlockScanner, cut_place
from streamward.schema import Action, Decision, Event


class HeldStream(Protocol):
    """Interface of a `ResponseStream` as far as it is used; see there."""

    @property
    def decision(self) -> Decision:
        """Decision on everything judged so far."""
        ...

    @property
    def releasable_chars(self) -> int:
        """Characters from the start that may be shown."""
        ...

    def masked(self, start: int, end: int, /) -> str | None:
        """Return releasable characters as they may be shown."""
        ...

    def feed(self, piece: str, /) -> Sequence[Event]:
        """Judge the next piece."""
        ...

    def truncate(self, num_chars: int, /) -> Sequence[Event]:
        """Drop all but the first characters."""
        ...

    def finish(self) -> object:
        """Judge what is left."""
        ...

    def close(self) -> None:
        """Free what the stream holds."""
        ...


class DroppedText(NamedTuple):
    """Text that was taken out of an answer."""

    text: str
    num_tokens: int


class HeldText:
    """Text that grows, with the verdicts of a guard. Close it: it holds cache."""

    def __init__(self, open_stream: Callable[[], HeldStream], *, hold_tokens: int) -> None:
        """Open a guard stream.

        Args:
            open_stream: Opens one behind the conversation; called again where a finished stream is needed once more.
            hold_tokens: Clear tokens at the end that are kept back.
        """
        self.text = ""
        """All of it, released or not."""
        self.released = 0
        """Characters from the start that have left."""
        self.num_judged = 0
        """Tokens judged in all, dropped ones included."""
        self._open_stream = open_stream
        self._stream = open_stream()
        self._hold_tokens = hold_tokens
        self._ends: list[int] = []  # ends of the tokens judged so far, in characters
        self._blocks = CodeBlockScanner()
        self._is_finished = False
        self._kept = 0  # number of characters before the last cut

    def __enter__(self) -> Self:
        """Return it; the guard stream is closed at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the guard stream."""
        self._stream.close()

    @property
    def decision(self) -> Decision:
        """Decision on everything so far, the prompt included."""
        return self._stream.decision

    @property
    def is_flagged(self) -> bool:
        """True if it may not go on as it is."""
        return self.decision.action.severity >= Action.REPLACE.severity

    @property
    def unsafe_at(self) -> int:
        """The first character of the first token over the threshold, of a text that is flagged."""
        return min(self._stream.releasable_chars, len(self.text))

    def feed(self, piece: str) -> None:
        """Judge what comes next.

        Raises:
            StreamwardError: The guard failed.
        """
        self.text += piece
        self._note(self._stream.feed(piece))

    def finish(self) -> None:
        """Judge the end.

        Raises:
            StreamwardError: The guard failed.
        """
        self._stream.finish()
        self._is_finished = True

    def release(self) -> str:
        """Return the text that may leave now, once, as the policy's detectors mask it."""
        return self._release(max(self.released, self._limit()))

    def cut(self) -> DroppedText:
        """Drop a flagged text from the first unsafe token's sentence, list item or code block on.

        What has left stays, and what an earlier cut kept.
        The guard's stream is cut back to the same place, and what is left is judged as if nothing had followed. If even
        that is flagged, all that has not left is dropped.

        Raises:
            StreamwardError: The guard failed, or flags text that has left.
        """
        text, num_tokens = self.text, len(self._ends)
        floor = max(self.released, self._kept)
        self._truncate(cut_place(text, max(self.unsafe_at, floor), floor=floor))
        if self.is_flagged:
            self._truncate(self.released)
        if self.is_flagged:
            raise StreamwardError("the guard flags text that has been released")
        return DroppedText(text[len(self.text) :], max(0, num_tokens - len(self._ends)))

    def release_all(self) -> str:
        """Return all that is left; only where nothing of it is flagged."""
        assert not self.is_flagged, "flagged text does not leave"
        return self._release(len(self.text))

    def release_unjudged(self) -> str:
        """Return all that is left, judged or not."""
        return self._release(len(self.text))

    def _release(self, end: int) -> str:
        start, self.released = self.released, end
        masked = self._stream.masked(start, end)
        return self.text[start:end] if masked is None else masked

    def _limit(self) -> int:
        clear = min(self._stream.releasable_chars, len(self.text))
        if self._is_finished and not self.is_flagged:
            return clear
        num_shown = bisect_right(self._ends, clear) - self._hold_tokens
        limit = self._ends[num_shown - 1] if num_shown > 0 else 0
        block = self._blocks.start(self.text)
        return limit if block is None else min(limit, block)

    def _truncate(self, num_chars: int) -> None:
        self._kept = num_chars
        self.text = self.text[:num_chars]
        self._blocks = CodeBlockScanner()
        if self._is_finished:  # a finished stream is closed
            self._stream.close()
            self._stream, self._is_finished = self._open_stream(), False
            self._ends.clear()
            events = self._stream.feed(self.text)
        else:
            events = self._stream.truncate(num_chars)
            del self._ends[bisect_right(self._ends, num_chars) :]
        self._note(events)

    def _note(self, events: Sequence[Event]) -> None:
        self.num_judged += len(events)
        for event in events:
            position, span = event.verdict.position, event.verdict.span
            del self._ends[position:]
            self._ends.append(0 if span is None else span.end)
