"""A guard stream for asyncio: every call runs in the moderator's threads."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from streamward.errors import StreamClosedError
from streamward.guard_call import GuardCall
from streamward.moderation.guard_stream import Piece
from streamward.moderation.response_stream import ResponseStream
from streamward.moderation.worker_pool import Submitter
from streamward.schema import Decision, Event, Result, SideResult

T = TypeVar("T")


async def run_call(
    make: Callable[[], T],
    *,
    executor: Submitter,
    call: GuardCall,
    undo: Callable[[T], None] | None = None,
) -> T:
    """Make a call of a guard in a thread. Cancelling the task that waits ends the call, which nobody waits for.

    Args:
        make: The call.
        executor: Whose thread.
        call: Stands for it.
        undo: Is given a result that came too late for the task that was cancelled.
    """
    running = executor.submit(partial(call.make, make))
    try:
        return await asyncio.wrap_future(running)
    except asyncio.CancelledError:
        call.cancel()
        if undo is not None:
            running.add_done_callback(partial(_undo, undo))  # in its thread: the event loop may be gone by then
        raise


class AsyncGuardStream:
    """Like `GuardStream`, for `async with`. From `Moderator.astream`.

    Cancelling a task that waits for a call ends the guard's work for that call, at the end of the step that runs. The
    stream can go on: a piece that was taken in (`took_piece`) is judged with the next one, or at the end.
    """

    def __init__(
        self, open_stream: Callable[[], ResponseStream], *, executor: Submitter, owner: str | None = None
    ) -> None:
        """Made by the moderator; the stream opens on entering the block."""
        self._open = open_stream
        self._executor = executor
        self._owner = owner
        self._inner: ResponseStream | None = None
        self.took_piece = False
        """True if the last piece was taken in. One whose call was cancelled may have been, or not."""
        self._turn = asyncio.Lock()  # who waits for another call holds no thread

    async def __aenter__(self) -> Self:
        """Open the stream: the prompt is judged."""
        self._inner = await run_call(
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

    async def feed(self, piece: Piece) -> list[Event]:
        """Judge the next piece; see `GuardStream.feed`."""
        return await self._run(partial(self._stream.feed, piece))

    async def feed_reasoning(self, piece: Piece) -> list[Event]:
        """Judge the next piece of reasoning; see `GuardStream.feed_reasoning`."""
        return await self._run(partial(self._stream.feed_reasoning, piece))

    async def truncate(self, num_chars: int) -> list[Event]:
        """Drop all but the first characters; see `GuardStream.truncate`."""
        return await self._run(partial(self._stream.truncate, num_chars))

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return what token ids say; see `GuardStream.bytes_of`."""
        return self._stream.bytes_of(ids)

    async def finish(self) -> Result:
        """Judge what is left and return the whole result; see `GuardStream.finish`."""
        return await self._run(self._stream.finish)

    def so_far(self) -> Result:
        """Return the result of what was judged; see `GuardStream.so_far`."""
        return self._stream.so_far()

    @property
    def _stream(self) -> ResponseStream:
        if self._inner is None:
            raise StreamClosedError("the stream is not open; use it in an `async with` block")
        return self._inner

    async def _run(self, make: Callable[[], T]) -> T:
        self.took_piece = False
        call = GuardCall(self._owner)
        async with self._turn:
            try:
                return await run_call(make, executor=self._executor, call=call)
            finally:
                self.took_piece = call.has_begun


def _undo(undo: Callable[[T], None], running: "Future[T]") -> None:
    if not running.cancelled() and running.exception() is None:
        undo(running.result())
