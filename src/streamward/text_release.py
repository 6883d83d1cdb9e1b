"""Text that a model generates, passed on as far as a guard stream releases it."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Protocol

from streamward.errors import StreamwardError
from streamward.schema import Action, Decision, Result


class BlockedError(StreamwardError):
    """The policy blocks a text.

    Attributes:
        decision: What the policy concluded; its `error` is set where the guard could not judge.
    """

    code = "blocked"

    def __init__(self, decision: Decision) -> None:
        """Say what was blocked and why, without the text."""
        what = "text" if decision.side is None else f"the {decision.side}"
        why = str(decision.category or decision.risk_level)
        if decision.detector is not None:
            why = f"the detector {decision.detector} found something"
        if decision.error is not None:
            why = f"it could not be judged ({decision.error})"
        super().__init__(f"the guard blocked {what}: {why}")
        self.decision = decision


class BlockingStream(Protocol):
    """The interface of a stream that `release` uses: a `GuardStream` or a `RemoteStream`."""

    @property
    def decision(self) -> Decision: ...  # noqa: D102  # as GuardStream
    @property
    def releasable_chars(self) -> int: ...  # noqa: D102
    def masked(self, start: int, end: int, /) -> str | None: ...  # noqa: D102
    def feed(self, piece: str, /) -> object: ...  # noqa: D102
    def finish(self) -> Result: ...  # noqa: D102


class AsyncStream(Protocol):
    """The interface of a stream that `arelease` uses: an `AsyncGuardStream` or an `AsyncRemoteStream`."""

    @property
    def decision(self) -> Decision: ...  # noqa: D102  # as AsyncGuardStream
    @property
    def releasable_chars(self) -> int: ...  # noqa: D102
    def masked(self, start: int, end: int, /) -> str | None: ...  # noqa: D102
    async def feed(self, piece: str, /) -> object: ...  # noqa: D102
    async def finish(self) -> Result: ...  # noqa: D102


class _HeldText:
    """Text that was fed and not passed on yet, and what is to be yielded of it after each call of the stream."""

    def __init__(self, stream: BlockingStream | AsyncStream) -> None:
        self._stream = stream
        self._text = ""
        self._num_released = 0
        self.is_failed = False
        """True once the guard has failed; what follows is not fed."""

    def take(self, piece: str) -> None:
        """Hold another piece."""
        self._text += piece

    def yielded(self) -> Iterator[str]:
        """Yield what may be passed on now, then the replacement of a stopped text, or raise BlockedError."""
        decision = self._stream.decision
        self.is_failed = decision.error is not None
        yield from self._released(decision, is_all=self.is_failed)

    def last(self, decision: Decision) -> Iterator[str]:
        """Yield the rest under the decision on the whole text; likewise."""
        yield from self._released(decision, is_all=True)

    def _released(self, decision: Decision, *, is_all: bool) -> Iterator[str]:
        end = self._stream.releasable_chars
        if is_all and not decision.is_blocked:
            end = self._num_released + len(self._text)
        if text := self._up_to(end):
            yield text
        if decision.is_blocked:
            yield _replacement(decision)

    def _up_to(self, releasable_chars: int) -> str:
        """Return what may be passed on and was not yet, as the policy's detectors mask it."""
        count = max(0, releasable_chars - self._num_released)
        released, self._text = self._text[:count], self._text[count:]
        start, self._num_released = self._num_released, self._num_released + len(released)
        masked = self._stream.masked(start, self._num_released) if released else None
        return released if masked is None else masked


def _replacement(decision: Decision) -> str:
    """Return what to say instead of the text that was stopped.

    Raises:
        BlockedError: Nothing.
    """
    if decision.action is Action.REPLACE and decision.message is not None:
        return decision.message
    raise BlockedError(decision)


def raise_if_blocked(decision: Decision) -> None:
    """Raise what stands for a decision on a whole text.

    Raises:
        BlockedError: The text must not be shown; for `replace`, `decision.message` says what to show instead.
    """
    if decision.is_blocked:
        raise BlockedError(decision)


def release(stream: BlockingStream, pieces: Iterable[str]) -> Iterator[str]:
    """Feed the pieces of a response to a stream, and yield its text as far as the guard releases it.

    Nothing is yielded that was not judged. Where the policy's action is `replace`, its message is yielded instead of
    the rest, and the iteration ends.

    Args:
        stream: An open stream of a moderator or a client.
        pieces: What the model generates. No piece is taken after a block.

    Raises:
        BlockedError: The policy blocks the prompt, or the response from here on.
        StreamwardError: The guard failed in the middle; what it had not judged is not yielded.
    """
    held = _HeldText(stream)
    if stream.decision.is_blocked:
        yield _replacement(stream.decision)
        return
    for piece in pieces:
        held.take(piece)
        if not held.is_failed:
            stream.feed(piece)
        yield from held.yielded()
        if stream.decision.is_blocked:
            return
    yield from held.last(stream.finish().decision)


async def arelease(stream: AsyncStream, pieces: AsyncIterable[str]) -> AsyncIterator[str]:
    """Like `release`, for asyncio."""
    held = _HeldText(stream)
    if stream.decision.is_blocked:
        yield _replacement(stream.decision)
        return
    async for piece in pieces:
        held.take(piece)
        if not held.is_failed:
            await stream.feed(piece)
        for text in held.yielded():
            yield text
        if stream.decision.is_blocked:
            return
    for text in held.last((await stream.finish()).decision):
        yield text
