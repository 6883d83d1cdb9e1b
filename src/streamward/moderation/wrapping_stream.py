"""A response stream over another one; what it does not change it passes on."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

from streamward.closing import ClosedOnExit
from streamward.detectors.finding import DetectorFinding
from streamward.moderation.coroutines import GuardCoroutine, run_blocking
from streamward.moderation.guard_stream import Piece
from streamward.moderation.response_stream import ResponseStream
from streamward.schema import Event, Result, SideResult


class WrappingStream(ClosedOnExit):
    """The part of a `ResponseStream` that is the same as that of the stream inside; see `GuardStream`."""

    def __init__(self, inner: ResponseStream) -> None:
        """Take over a stream, which is closed with this one."""
        self._inner = inner

    @property
    def prompt(self) -> SideResult | None:
        """Judgement of the user's turn; None if there was none."""
        return self._inner.prompt

    @property
    def response(self) -> SideResult:
        """Judgement of what was fed so far."""
        return self._inner.response

    @property
    def num_tokens(self) -> int:
        """Tokens judged so far."""
        return self._inner.num_tokens

    @property
    def findings(self) -> Sequence[DetectorFinding]:
        """Findings of the policy's detectors in the response, as far as they have decided."""
        return self._inner.findings

    def masked(self, start: int, end: int) -> str | None:
        """Return releasable characters as they may be shown; None where no detector reads the response."""
        return self._inner.masked(start, end)

    def listen(self, on_text: Callable[[str], object]) -> None:
        """Have something else given the characters of the response too."""
        self._inner.listen(on_text)

    def add_prompt(self, earlier: Result) -> None:
        """Let a further prompt of the conversation count."""
        self._inner.add_prompt(earlier)

    def is_quick(self, piece: Piece) -> bool:
        """Return False: besides the guard something else reads the piece."""
        del piece
        return False

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return what token ids say; nothing is fed."""
        return self._inner.bytes_of(ids)

    def feed(self, piece: Piece) -> list[Event]:
        """Judge the next piece of the response."""
        return run_blocking(self.feed_coroutine(piece))

    def feed_reasoning(self, piece: Piece) -> list[Event]:
        """Judge the next piece of what the assistant thinks before its answer."""
        return run_blocking(self.feed_reasoning_coroutine(piece))

    def truncate(self, num_chars: int) -> list[Event]:
        """Drop all but the first characters, and what was decided by the others."""
        return run_blocking(self.truncate_coroutine(num_chars))

    def finish(self) -> Result:
        """Judge what is left and return the whole result. Closes the stream."""
        return run_blocking(self.finish_coroutine())

    @abstractmethod
    def feed_coroutine(self, piece: Piece) -> GuardCoroutine[list[Event]]:
        """Do what `feed` does."""

    @abstractmethod
    def feed_reasoning_coroutine(self, piece: Piece) -> GuardCoroutine[list[Event]]:
        """Do what `feed_reasoning` does."""

    @abstractmethod
    def truncate_coroutine(self, num_chars: int) -> GuardCoroutine[list[Event]]:
        """Do what `truncate` does."""

    @abstractmethod
    def finish_coroutine(self) -> GuardCoroutine[Result]:
        """Do what `finish` does."""

    def cancel(self) -> None:
        """End the call that another thread makes, and every later one; does not wait."""
        self._inner.cancel()

    def close(self) -> None:
        """Free what the stream holds; does not wait."""
        self._inner.close()
