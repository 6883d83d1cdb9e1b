"""Messages of a stream; HTTP and WebSocket use the same ones."""

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, computed_field, model_validator

from streamward.detectors.finding import DetectorFinding
from streamward.schema import Decision, Event, Result, SideResult
from streamward.server.pieces import Appended, StreamPiece
from streamward.server.records import num_tokens
from streamward.server.sessions import StreamSession
from streamward.server.wire import Messages, Name, PolicyInForce
from streamward.settings import Settings

Seq = Annotated[int, Field(ge=0, le=2**53)]


class OpenStream(Settings):
    """Begin a stream behind a prompt or a conversation; with neither the response is judged by itself."""

    prompt: str | None = None
    messages: Messages | None = None
    """Instead of the prompt: the conversation up to the user's last turn."""
    policy: Name | None = None
    """Name of a policy; by default the key's."""


class AppendPiece(Settings):
    """The next piece of the response: one of text, token_ids and reasoning."""

    text: str | None = None
    """Text, cut anywhere."""
    token_ids: tuple[Annotated[int, Field(ge=0, le=2**31)], ...] | None = None
    """Ids of the guard's own tokenizer."""
    reasoning: str | None = None
    """Text that the assistant thinks before its answer."""
    seq: Seq | None = None
    """Number of the piece, from 0: one sent twice is judged once, and gets the same answer."""

    @model_validator(mode="after")
    def _is_one_piece(self) -> Self:
        if sum(item is not None for item in (self.text, self.token_ids, self.reasoning)) != 1:
            raise ValueError("give exactly one of text, token_ids and reasoning")
        return self

    @property
    def piece(self) -> StreamPiece:
        """The same as plain data."""
        if self.text is not None:
            return StreamPiece("text", self.text)
        if self.reasoning is not None:
            return StreamPiece("reasoning", self.reasoning)
        return StreamPiece("token_ids", self.token_ids or ())


class Opened(Settings):
    """A stream that was opened."""

    type: Literal["opened"] = "opened"
    stream: str
    """Its id."""
    ref: str | None = None
    """The caller's own id of the request."""
    policy: PolicyInForce
    decision: Decision
    prompt: SideResult | None
    """Judgement of the user's turn."""

    @classmethod
    def of(cls, session: StreamSession, *, ref: str | None = None) -> Self:
        """Describe a session."""
        return cls(
            stream=session.id,
            ref=ref,
            policy=PolicyInForce.of(session.job.policy),
            decision=session.decision,
            prompt=session.prompt,
        )


class Events(Settings):
    """Result of one piece."""

    type: Literal["events"] = "events"
    stream: str
    seq: int
    """Number of the piece."""
    events: tuple[Event, ...]
    """One for each newly judged token."""
    decision: Decision
    """Decision on everything seen so far."""
    releasable_chars: int
    """Characters from the start that may be shown."""
    is_failed: bool
    """True if the guard failed; the stream has then ended."""
    findings: tuple[DetectorFinding, ...] = ()
    """Findings of the policy's detectors since the piece before; places count in the response."""
    masked: str | None = None
    """Text that may be shown since the piece before, masked; null where no detector reads the response."""

    @computed_field(json_schema_extra={"deprecated": True})  # type: ignore[prop-decorator]  # pydantic's way to put it
    @property
    def checked_chars(self) -> int:
        """The former name of `releasable_chars`, for one release."""
        return self.releasable_chars

    @classmethod
    def of(cls, session: StreamSession, answer: Appended) -> Self:
        """Describe an answer."""
        return cls(
            stream=session.id,
            seq=answer.seq,
            events=answer.events,
            decision=answer.decision,
            releasable_chars=answer.releasable_chars,
            is_failed=answer.is_failed,
            findings=answer.findings,
            masked=answer.masked,
        )


class Closed(Settings):
    """The end of a stream, and the judgement of all of it."""

    type: Literal["closed"] = "closed"
    stream: str
    decision: Decision
    prompt: SideResult | None
    response: SideResult | None
    num_tokens: int
    """Tokens judged, on both sides."""
    guard_ms: float | None
    """Time that the stream waited for the guard, in milliseconds: apart from the time in which it was written."""
    findings: tuple[DetectorFinding, ...] = ()
    """Findings of the policy's detectors since the last piece."""
    masked: str | None = None
    """Text that may be shown since the last piece, masked; null where no detector reads the response."""

    @classmethod
    def of(cls, session: StreamSession, result: Result) -> Self:
        """Describe a result."""
        findings, masked = session.take_news()
        return cls(
            stream=session.id,
            decision=result.decision,
            prompt=result.prompt,
            response=result.response,
            num_tokens=num_tokens(result),
            guard_ms=session.job.guard_time.ms,
            findings=findings,
            masked=masked,
        )


class Resumed(Settings):
    """A stream as it is now, with the answers to pieces after the one named."""

    type: Literal["resumed"] = "resumed"
    stream: str
    next_seq: int
    """Number of the piece that should come next."""
    decision: Decision
    missed: tuple[Events, ...]


class Failed(Settings):
    """Something that was asked could not be done."""

    type: Literal["error"] = "error"
    code: str
    message: str
    stream: str | None = None
    ref: str | None = None


class OpenMessage(OpenStream):
    """WebSocket: begin a stream."""

    type: Literal["open"]
    ref: Name | None = None
    """Comes back with the answer."""


class AppendMessage(AppendPiece):
    """WebSocket: feed a stream."""

    type: Literal["append"]
    stream: Name


class CloseMessage(Settings):
    """WebSocket: end a stream."""

    type: Literal["close"]
    stream: Name


class ResumeMessage(Settings):
    """WebSocket: take over a stream of a connection that broke."""

    type: Literal["resume"]
    stream: Name
    after: Annotated[int, Field(ge=-1, le=2**53)] = -1
    """Number of the last piece whose answer arrived; -1: none."""


ClientMessage = OpenMessage | AppendMessage | CloseMessage | ResumeMessage
CLIENT_MESSAGE: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Field(discriminator="type")])
