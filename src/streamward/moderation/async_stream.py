"""A guard stream for asyncio: no call holds a thread while it waits for the engine."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from streamward.detectors.finding import DetectorFinding
from streamward.errors import StreamClosedError
from streamward.guard_call import GuardCall
from streamward.moderation.coroutines import GuardCoroutine, run_async
from streamward.moderation.guard_stream import Piece
from streamward.moderation.response_stream import ResponseStream
from streamward.moderation.worker_pool import Submitter
from streamward.schema import Decision, Event, Result, SideResult

T = TypeVar("T")


class AsyncGuardStream:
    """Like `GuardStream`, for `async with`. From `Moderator.astream`.

    Cancelling a task that waits for a call ends the guard's work for that call, at the end of the step that runs. The
    stream can go on: a piece that was taken in (`took_piece`) is judged with the next one, or at the end.
    """

    def __init__(
        self,
        open_stream: Callable[[], GuardCoroutine[ResponseStream]],
        *,
        executor: Submitter,
        owner: str | None = None,
    ) -> None:
        """Made by the moderator; the stream opens on entering the block."""
        self._open = open_stream
        self._executor = executor
        self._owner = owner
        self._inner: ResponseStream | None = None
        self.took_piece = False
        """True if the last piece was taken in. One whose call was cancelled may have been, or not."""
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Open the stream: the prompt is judged."""
        self._inner = await run_async(
            self._open, executor=self._executor, call=GuardCall(self._owner), undo=lambda stream: stream.close()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream, also on cancellation. Nothing waits, not even for a piece that is being judged."""
        self._stream.close()

    @property
    def prompt(self) -> SideResult | None:
        """Judgement of the user's turn; None if there was none."""
        return self._stream.prompt

    @property
    def decision(self) -> Decision:
        """Decision on everything judged so far."""
        return self._stream.decision

    @property
    def releasable_chars(self) -> int:
        """Characters from the start that were judged and are not over the policy's threshold."""
        return self._stream.releasable_chars

    @property
    def findings(self) -> Sequence[DetectorFinding]:
        """Findings of the policy's detectors in the response, as far as they have decided."""
        return self._stream.findings

    def masked(self, start: int, end: int) -> str | None:
        """Return releasable characters as they may be shown; None where no detector reads the response."""
        return self._stream.masked(start, end)

    async def feed(self, piece: Piece) -> list[Event]:
        """Judge the next piece; see `GuardStream.feed`."""
        return await self._run(partial(self._stream.feed_coroutine, piece), piece=piece)

    async def feed_reasoning(self, piece: Piece) -> list[Event]:
        """Judge the next piece of reasoning; see `GuardStream.feed_reasoning`."""
        return await self._run(partial(self._stream.feed_reasoning_coroutine, piece), piece=piece)

    async def truncate(self, num_chars: int) -> list[Event]:
        """Drop all but the first characters; see `GuardStream.truncate`."""
        return await self._run(partial(self._stream.truncate_coroutine, num_chars))

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return what token ids say; see `GuardStream.bytes_of`."""
        return self._stream.bytes_of(ids)

    async def finish(self) -> Result:
        """Judge what is left and return the whole result; see `GuardStream.finish`."""
        return await self._run(self._stream.finish_coroutine)

    def so_far(self) -> Result:
        """Return the result of what was judged; see `GuardStream.so_far`."""
        return self._stream.so_far()

    @property
    def _stream(self) -> ResponseStream:
        if self._inner is None:
            raise StreamClosedError("the stream is not open; use it in an `async with` block")
        return self._inner

    async def _run(self, make: Callable[[], GuardCoroutine[T]], *, piece: Piece | None = None) -> T:
        self.took_piece = False
        call = GuardCall(self._owner)
        async with self._turn:
            try:
                return await run_async(make, executor=None if self._is_quick(piece) else self._executor, call=call)
            finally:
                self.took_piece = call.has_begun

    def _is_quick(self, piece: Piece | None) -> bool:
        """Return true if the event loop itself may do what a piece needs."""
        return isinstance(piece, str | bytes | list | tuple) and self._stream.is_quick(piece)
