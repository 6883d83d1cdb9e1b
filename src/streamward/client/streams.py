"""Responses that a service judges while they are generated: counterparts of `GuardStream` and `AsyncGuardStream`."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from streamward.client.sockets import AsyncSocket, BlockingSocket
from streamward.client.stream_protocol import ConnectionLostError, Steps, StreamProtocol, kind_of
from streamward.closing import ClosedOnExit
from streamward.detectors.finding import DetectorFinding
from streamward.errors import StreamwardError, UpstreamError
from streamward.schema import Decision, Event, Result, SideResult

T = TypeVar("T")


class RemoteStreamState:
    """The state of a remote stream, as the service last reported it; the common part of the two kinds of stream."""

    def __init__(self, protocol: StreamProtocol) -> None:
        """Made by the client; the stream is opened on entering the block."""
        self._protocol = protocol

    @property
    def id(self) -> str | None:
        """Id of the stream in the service's log; None before it is open."""
        return self._protocol.id

    @property
    def prompt(self) -> SideResult | None:
        """Judgement of the user's turn; None if there was none."""
        return self._protocol.prompt

    @property
    def decision(self) -> Decision:
        """Decision on everything judged so far, the prompt included. It never becomes milder."""
        return self._protocol.decision

    @property
    def releasable_chars(self) -> int:
        """Number of characters from the start of the response that may be shown."""
        return self._protocol.releasable_chars

    @property
    def findings(self) -> Sequence[DetectorFinding]:
        """Findings of the policy's detectors in the response so far."""
        return self._protocol.findings

    def masked(self, start: int, end: int) -> str | None:
        """Return characters as they may be shown; None where no detector reads the response.

        Args:
            start: The former value of `releasable_chars`; at first 0.
            end: Its present value.
        """
        return self._protocol.masked(start, end)


class RemoteStream(RemoteStreamState, ClosedOnExit):
    """A response judged piece by piece by a service. From `Client.stream`; use it in a `with` block.

    A connection that breaks is made again and the stream resumed; no piece is judged twice. Thread-safe, one call at a
    time.
    """

    def __init__(self, protocol: StreamProtocol, socket: BlockingSocket) -> None:
        """Made by the client; the stream is opened on entering the block."""
        super().__init__(protocol)
        self._socket = socket
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Open the stream: the prompt is judged.

        Raises:
            StreamwardError: The service refuses, or cannot be reached (UpstreamError).
        """
        self._run(self._protocol.open())
        return self

    def feed(self, piece: str | Sequence[int]) -> list[Event]:
        """Judge the next piece of the response.

        Args:
            piece: Text, cut anywhere, or token ids of the guard's own tokenizer.

        Returns:
            One event for each newly judged token. Where the guard failed there is none, and `decision` has the error.

        Raises:
            StreamClosedError: The stream is finished or closed, or the service no longer has it.
            InputError: The piece is of another type, or a token id is out of range.
            UpstreamError: The service does not reply in time, or cannot be reached again.
        """
        return self._run(self._protocol.append(kind_of(piece), piece))

    def feed_reasoning(self, piece: str) -> list[Event]:
        """Judge the next piece of what the assistant thinks before its answer; raises as `feed`."""
        return self._run(self._protocol.append("reasoning", piece))

    def finish(self) -> Result:
        """Judge what is left, close the stream and return the whole result; raises as `feed`."""
        return self._run(self._protocol.finish())

    def close(self) -> None:
        """Leave the stream. One that was not finished is finished by the service, and its decision logged."""
        with self._lock:
            with suppress(StreamwardError, ConnectionLostError):
                self._socket.run(self._protocol.leave())
            self._protocol.is_over = True
            self._socket.drop()

    def _run(self, steps: Steps[T]) -> T:
        with self._lock:
            try:
                return self._socket.run(steps)
            except BaseException as error:
                if _is_cut_short(error):
                    self._protocol.drop()
                    self._socket.drop()
                raise


class AsyncRemoteStream(RemoteStreamState):
    """Like `RemoteStream`, for `async with`. From `Client.astream`.

    Cancelling a call leaves open whether its piece was taken in; the next call asks the service.
    """

    def __init__(self, protocol: StreamProtocol, socket: AsyncSocket) -> None:
        """Made by the client; the stream is opened on entering the block."""
        super().__init__(protocol)
        self._socket = socket
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Open the stream; see `RemoteStream.__enter__`."""
        await self._run(self._protocol.open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        await self.close()

    async def feed(self, piece: str | Sequence[int]) -> list[Event]:
        """Judge the next piece of the response; see `RemoteStream.feed`."""
        return await self._run(self._protocol.append(kind_of(piece), piece))

    async def feed_reasoning(self, piece: str) -> list[Event]:
        """Judge the next piece of reasoning; see `RemoteStream.feed_reasoning`."""
        return await self._run(self._protocol.append("reasoning", piece))

    async def finish(self) -> Result:
        """Judge what is left, close the stream and return the whole result; see `RemoteStream.finish`."""
        return await self._run(self._protocol.finish())

    async def close(self) -> None:
        """Leave the stream; see `RemoteStream.close`."""
        async with self._lock:
            try:
                with suppress(StreamwardError, ConnectionLostError):
                    await self._socket.run(self._protocol.leave())
            finally:
                self._protocol.is_over = True
                await self._socket.drop()

    async def _run(self, steps: Steps[T]) -> T:
        async with self._lock:
            try:
                return await self._socket.run(steps)
            except BaseException as error:
                if _is_cut_short(error):
                    self._protocol.drop()
                    await self._socket.drop()
                raise


def _is_cut_short(error: BaseException) -> bool:
    """Return whether the reply to the last message may still come, so that the connection is of no further use."""
    return isinstance(error, UpstreamError) or not isinstance(error, StreamwardError)
