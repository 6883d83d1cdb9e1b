"""The protocol of `WS /v1/streams` without its input and output, which a thread and an event loop do differently."""

import json
import time
from collections.abc import Callable, Generator, Sequence
from enum import Enum, auto
from typing import Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter

from streamward.client.replies import JsonObject, error_of, parse
from streamward.decisions import ALLOWED
from streamward.detectors.finding import DetectorFinding
from streamward.errors import (
    InputError,
    OverloadedError,
    RateLimitError,
    StreamClosedError,
    UpstreamError,
)
from streamward.schema import Decision, Event, Result, SideResult

Kind = Literal["text", "token_ids", "reasoning"]
T = TypeVar("T")
_FIRST_WAIT_S, _MAX_WAIT_S = 0.05, 2.0  # waits between attempts to connect again
_EVENTS: TypeAdapter[list[Event]] = TypeAdapter(list[Event])
_FINDINGS: TypeAdapter[list[DetectorFinding]] = TypeAdapter(list[DetectorFinding])
_DECISION: TypeAdapter[Decision] = TypeAdapter(Decision)
_SIDE: TypeAdapter[SideResult | None] = TypeAdapter(SideResult | None)
_RESULT: TypeAdapter[Result] = TypeAdapter(Result)
_REPLY: TypeAdapter[JsonObject] = TypeAdapter(JsonObject)


class Do(Enum):
    """Requests of a step to whoever owns the connection."""

    CONNECT = auto()
    SEND = auto()
    RECEIVE = auto()
    DROP = auto()
    WAIT = auto()


class Step(NamedTuple):
    """One operation on the connection: open it, send `text`, receive a text, drop it, or wait `seconds`."""

    do: Do
    text: str = ""
    seconds: float = 0.0


Steps = Generator[Step, str, T]
"""Operations to perform in order; each is answered with what was received, and the last value is the result."""


class ConnectionLostError(Exception):
    """Thrown into the steps where an operation failed because the connection is gone, or could not be made."""


class _MaskedPiece(NamedTuple):
    start: int  # place of its first character in the response
    text: str


class StreamProtocol:
    """One stream as its client sees it. Every method that returns steps must run alone and to its end.

    A connection that breaks is made again and the stream resumed: pieces are numbered, so that none is judged twice
    and none is lost.
    """

    def __init__(self, opening: JsonObject, *, resume_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare a stream.

        Args:
            opening: The message that opens it.
            resume_s: Seconds within which a lost connection must be made again.
            clock: Seconds.
        """
        self.id: str | None = None
        self.prompt: SideResult | None = None
        self.decision = ALLOWED
        self.releasable_chars = 0
        self.findings: list[DetectorFinding] = []
        self.is_over = False
        self._opening = opening
        self._resume_s = resume_s
        self._clock = clock
        self._next_seq = 0
        self._is_connected = False
        self._result: Result | None = None
        self._masked: list[_MaskedPiece] = []
        self._is_masking = False

    def masked(self, start: int, end: int) -> str | None:
        """Return characters as the service masked them; None where no detector reads the response.

        Args:
            start: A number of releasable characters that a reply stated, or 0.
            end: A later one.
        """
        if not self._is_masking:
            return None
        return "".join(piece.text for piece in self._masked if start <= piece.start < end)

    def open(self) -> Steps[None]:
        """Open the stream; the prompt is judged."""
        opened, _ = yield from self._ask(self._opening, "opened")
        self.id = str(opened["stream"])
        self.prompt = parse(_SIDE, opened["prompt"])
        self.decision = parse(_DECISION, opened["decision"])

    def append(self, kind: Kind, content: str | Sequence[int]) -> Steps[list[Event]]:
        """Send a piece and wait for its events."""
        self._check_open()
        yield from self._settle()
        events: list[Event] = []
        while True:
            seq = self._next_seq
            message = {"type": "append", "stream": self.id, kind: content, "seq": seq}
            reply, was_lost = yield from self._ask(message, "events", seq=seq)
            if seq == self._next_seq:  # otherwise the resumption has read it
                self._read_events(reply)
            found: list[Event] = parse(_EVENTS, reply["events"])
            events += found
            if events or not was_lost or self.is_over:
                return events
            # The service may have taken the piece without judging it when the connection broke; the next one does.
            kind, content = ("reasoning" if kind == "reasoning" else "text"), ""

    def finish(self) -> Steps[Result]:
        """End the stream and wait for its result."""
        if self._result is not None:
            return self._result
        if self.is_over and self.decision.error is not None:  # the guard's failure ended the stream
            self._result = Result(self.decision, self.prompt)
            return self._result
        self._check_open()
        yield from self._settle()
        closed, _ = yield from self._ask({"type": "close", "stream": self.id}, "closed")
        self.is_over = True
        self._read_masked(closed)
        self._result = parse(_RESULT, {name: closed[name] for name in ("decision", "prompt", "response")})
        self.decision = self._result.decision
        return self._result

    def leave(self) -> Steps[None]:
        """End the stream without waiting for a lost connection, so that the service logs its decision now."""
        if self._is_connected and self.id is not None and not self.is_over:
            yield Step(Do.SEND, json.dumps({"type": "close", "stream": self.id}))
            yield from self._receive("closed")

    def drop(self) -> None:
        """Note that the connection is gone in the middle of a call; the next one finds out how far the stream is."""
        self._is_connected = False

    def _check_open(self) -> None:
        if self.id is None:
            raise StreamClosedError("the stream is not open; use it in a `with` block")
        if self.is_over:
            raise StreamClosedError("the stream is finished or closed; open another one")

    def _settle(self) -> Steps[None]:
        """Resume the stream where an earlier call was cut short, so that its piece's number is not given again."""
        if not self._is_connected:
            yield from self._retrying(self._resume)

    def _ask(self, message: JsonObject, wanted: str, *, seq: int | None = None) -> Steps[tuple[JsonObject, bool]]:
        """Send a message and wait for its reply; returns whether the connection was lost meanwhile, too."""
        text, was_lost = json.dumps(message), False

        def attempt() -> Steps[JsonObject]:
            nonlocal was_lost
            if not self._is_connected:
                was_lost = self.id is not None
                missed = yield from self._resume()
                for reply in missed:
                    if seq is not None and reply["seq"] == seq:
                        return reply
            yield Step(Do.SEND, text)
            while True:
                reply = yield from self._receive(wanted)
                if seq is None or reply.get("seq") == seq:
                    return reply

        reply = yield from self._retrying(attempt)
        return reply, was_lost

    def _retrying(self, attempt: Callable[[], Steps[T]]) -> Steps[T]:
        """Repeat what a lost connection interrupts, for so long as the service keeps the stream."""
        lost_at, wait_s = None, _FIRST_WAIT_S
        while True:
            try:
                return (yield from attempt())
            except (ConnectionLostError, OverloadedError, RateLimitError) as error:
                if self._is_connected and not isinstance(error, ConnectionLostError):
                    raise
                self._is_connected = False
                yield Step(Do.DROP)
                lost_at = self._clock() if lost_at is None else lost_at
                if self.id is None or self._clock() - lost_at + wait_s > self._resume_s:
                    if isinstance(error, ConnectionLostError):
                        raise UpstreamError(f"the service cannot be reached: {error}") from error
                    raise
                yield Step(Do.WAIT, seconds=wait_s)
                wait_s = min(2 * wait_s, _MAX_WAIT_S)

    def _resume(self) -> Steps[list[JsonObject]]:
        """Connect, take the stream over if there is one, and return the replies that were missed."""
        yield Step(Do.CONNECT)
        missed: list[JsonObject] = []
        if self.id is not None:
            yield Step(Do.SEND, json.dumps({"type": "resume", "stream": self.id, "after": self._next_seq - 1}))
            resumed = yield from self._receive("resumed")
            missed = list(resumed["missed"])
            for reply in missed:
                self._read_events(reply)
            self._next_seq = int(resumed["next_seq"])
        self._is_connected = True
        return missed

    def _receive(self, wanted: str) -> Steps[JsonObject]:
        """Wait for a reply of a type; replies to pieces that nobody waits for any more are passed over."""
        while True:
            reply = parse(_REPLY, (yield Step(Do.RECEIVE)))
            if reply.get("type") == "error":
                raise self._error_of(reply)
            if reply.get("type") == wanted:
                return reply
            if reply.get("type") != "events":
                raise UpstreamError("the service's reply has another format; is it a Streamward service?")

    def _error_of(self, reply: JsonObject) -> Exception:
        error = error_of(reply.get("code"), str(reply.get("message")))
        concerns_connection = reply.get("stream") is None and reply.get("ref") is None
        if concerns_connection and isinstance(error, StreamClosedError | OverloadedError):
            return ConnectionLostError(str(error))  # for instance after too long an idle time; the stream goes on
        self.is_over = self.is_over or (isinstance(error, StreamClosedError) and self.id is not None)
        return error

    def _read_events(self, reply: JsonObject) -> None:
        self._next_seq = int(reply["seq"]) + 1
        self.decision = parse(_DECISION, reply["decision"])
        if reply["is_failed"]:
            self.is_over = True
        else:
            self._read_masked(reply)
            self.releasable_chars = int(reply["releasable_chars"])

    def _read_masked(self, reply: JsonObject) -> None:
        """Read what detectors found, and what may be shown since the last reply; older services say neither."""
        found: list[DetectorFinding] = parse(_FINDINGS, reply.get("findings", []))
        self.findings += found
        masked = reply.get("masked")
        if masked is not None:
            self._is_masking = True
            self._masked.append(_MaskedPiece(self.releasable_chars, str(masked)))


def kind_of(piece: object) -> Kind:
    """Return what a piece is.

    Raises:
        InputError: It is neither text nor token ids.
    """
    if isinstance(piece, str):
        return "text"
    if isinstance(piece, Sequence) and not isinstance(piece, bytes) and all(type(item) is int for item in piece):
        return "token_ids"
    raise InputError(f"a piece is of type {type(piece).__name__}; a service accepts str or a list of token ids")
