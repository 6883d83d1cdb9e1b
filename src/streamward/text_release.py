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
    """Text that was fed and not passed on yet."""

    def __init__(self, stream: BlockingStream | AsyncStream) -> None:
        self._stream = stream
        self._text = ""
        self._num_released = 0

    def take(self, piece: str) -> None:
        """Hold another piece."""
        self._text += piece

    def up_to(self, releasable_chars: int) -> str:
        """Return what may be passed on and was not yet, as the policy's detectors mask it."""
        count = max(0, releasable_chars - self._num_released)
        released, self._text = self._text[:count], self._text[count:]
        start, self._num_released = self._num_released, self._num_released + len(released)
        masked = self._stream.masked(start, self._num_released) if released else None
        return released if masked is None else masked

    def rest(self) -> str:
        """Return everything that is left."""
        return self.up_to(self._num_released + len(self._text))


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
    is_failed = False
    for piece in pieces:
        held.take(piece)
        if not is_failed:
            stream.feed(piece)
            is_failed = stream.decision.error is not None
        stopped = stream.decision.is_blocked
        text = held.rest() if is_failed and not stopped else held.up_to(stream.releasable_chars)
        if text:
            yield text
        if stopped:
            yield _replacement(stream.decision)
            return
    decision = stream.finish().decision
    if text := held.up_to(stream.releasable_chars) if decision.is_blocked else held.rest():
        yield text
    if decision.is_blocked:
        yield _replacement(decision)


async def arelease(stream: AsyncStream, pieces: AsyncIterable[str]) -> AsyncIterator[str]:
    """Like `release`, for asyncio."""
    held = _HeldText(stream)
    if stream.decision.is_blocked:
        yield _replacement(stream.decision)
        return
    is_failed = False
    async for piece in pieces:
        held.take(piece)
        if not is_failed:
            await stream.feed(piece)
            is_failed = stream.decision.error is not None
        stopped = stream.decision.is_blocked
        text = held.rest() if is_failed and not stopped else held.up_to(stream.releasable_chars)
        if text:
            yield text
        if stopped:
            yield _replacement(stream.decision)
            return
    decision = (await stream.finish()).decision
    if text := held.up_to(stream.releasable_chars) if decision.is_blocked else held.rest():
        yield text
    if decision.is_blocked:
        yield _replacement(decision)
