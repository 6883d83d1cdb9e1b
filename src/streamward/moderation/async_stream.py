"""A guard stream for asyncio: every call runs in the moderator's threads."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import Self, TypeVar

from streamward.errors import StreamClosedError
from streamward.moderation.guard_stream import GuardStream, Piece
from streamward.schema import Decision, Event, Judgement, Result

T = TypeVar("T")


class AsyncGuardStream:
    """Like `GuardStream`, for `async with`. From `Moderator.astream`."""

    def __init__(self, open_stream: Callable[[], GuardStream], *, executor: Executor) -> None:
        """Made by the moderator; the stream opens on entering the block."""
        self._open = open_stream
        self._executor = executor
        self._inner: GuardStream | None = None

    async def __aenter__(self) -> Self:
        """Open the stream: the prompt is judged."""
        opening = self._executor.submit(self._open)
        try:
            self._inner = await asyncio.shield(asyncio.wrap_future(opening))
        except asyncio.CancelledError:
            opening.cancel()
            opening.add_done_callback(_close_opened)  # in its thread: the event loop may be gone by then
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream, also on cancellation."""
        await asyncio.shield(self._run(self._stream.close))  # waits in a thread for a piece still being judged

    @property
    def prompt(self) -> Judgement | None:
        """Judgement of the user's turn; None if there was none."""
        return self._stream.prompt

    @property
    def decision(self) -> Decision:
        """What to do by all that was seen so far."""
        return self._stream.decision

    @property
    def checked_chars(self) -> int:
        """Characters from the start that were judged and are not over the policy's line."""
        return self._stream.checked_chars

    async def feed(self, piece: Piece) -> list[Event]:
        """Judge the next piece; see `GuardStream.feed`."""
        stream = self._stream
        return await self._run(lambda: stream.feed(piece))

    async def feed_reasoning(self, piece: Piece) -> list[Event]:
        """Judge the next piece of reasoning; see `GuardStream.feed_reasoning`."""
        stream = self._stream
        return await self._run(lambda: stream.feed_reasoning(piece))

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return what token ids say; see `GuardStream.bytes_of`."""
        return self._stream.bytes_of(ids)

    async def finish(self) -> Result:
        """Judge what is left and return the whole result; see `GuardStream.finish`."""
        return await self._run(self._stream.finish)

    @property
    def _stream(self) -> GuardStream:
        if self._inner is None:
            raise StreamClosedError("the stream is not open; use it in an `async with` block")
        return self._inner

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _close_opened(opening: Future[GuardStream]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
