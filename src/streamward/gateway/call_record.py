"""Requests, responses and records of the gateway."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from streamward.gateway.strict_json import JsonObject
from streamward.gateway.wire import FormatName
from streamward.intervene.walk import InterventionRecord
from streamward.policy import Policy
from streamward.schema import Decision, Event, Message, SideResult


@dataclass(frozen=True, slots=True)
class GatewayCall:
    """One request to a guarded model.

    Attributes:
        upstream: Name of the server to ask.
        format: Which API.
        body: The request as the client sent it.
        policy: What follows from verdicts.
        has_annotations: Whether the request asks for Azure's content filter results.
        reports_interventions: Whether the answer is to state what was changed in it.
        request_id: Named in outcomes.
        tenant: Whose request it is.
    """

    upstream: str
    format: FormatName
    body: bytes
    policy: Policy
    has_annotations: bool = False
    reports_interventions: bool = False
    request_id: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class GatewayResponse:
    """The response that the client gets.

    Attributes:
        status: HTTP status.
        headers: Besides the usual ones.
        body: The whole of it; None if it is streamed.
        events: Parts of the stream; each may be sent as it comes. None if it is not streamed.
    """

    status: int
    body: bytes | None = None
    events: AsyncIterator[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class EndReason(StrEnum):
    """The ways in which a call ends."""

    COMPLETE = "complete"
    PROMPT_BLOCKED = "prompt_blocked"
    RESPONSE_BLOCKED = "response_blocked"
    UPSTREAM_FAILED = "upstream_failed"
    GUARD_FAILED = "guard_failed"
    NOT_RECORDED = "not_recorded"
    INTERNAL = "internal"
    CLIENT_GONE = "client_gone"


@dataclass(frozen=True, slots=True)
class GuardedText:
    """Text of an answer that one guard stream has read.

    Attributes:
        name: The number of the choice; with a number behind it for text that was read apart from the rest, or
            `envelope` for what belongs to no choice, or `error` for the sentence of an upstream's error.
        text: All of it, shown or not; the judgement's positions count in it.
        decision: What followed from it; of the first part of a choice, what was done to the choice, whatever text of it
            or beside it was the reason.
        judgement: What the guard says of all that it has judged; None if that is nothing.
        num_judged_chars: Characters that it has judged, from the start.
        num_shown_chars: Characters up to the last one that was released, from the start.
    """

    name: str
    text: str
    decision: Decision
    judgement: SideResult | None
    num_judged_chars: int
    num_shown_chars: int


@dataclass(frozen=True, slots=True)
class ChoiceIntervention:
    """The changes after one flag in one choice.

    Attributes:
        group: The choice.
        record: What was done.
    """

    group: int
    record: InterventionRecord

    def told(self) -> JsonObject:
        """Return it as an answer states it."""
        record = self.record
        return {
            "choice": self.group,
            "at_char": record.at_char,
            "action": record.action.value,
            "outcome": record.outcome,
            "category": None if record.category is None else record.category.value,
            "attempts": record.attempts,
            "dropped_tokens": record.dropped_tokens,
            "wait_tokens": record.wait_tokens,
            "wait_ms": round(record.wait_ms, 1),
        }


@dataclass(frozen=True, slots=True)
class CallRecord:
    """The record of a finished call.

    Attributes:
        call: The request.
        model: The model asked for.
        is_stream: Whether the answer was to be streamed.
        status: HTTP status of the answer.
        ending: How it ended.
        decision: The most severe one, of the prompt and of all choices.
        messages: The conversation as the guard read it.
        prompt: Judgement of the prompt; None if there is none.
        parts: What the model said; empty if it was not asked, or not heard.
        prompt_s: Until the prompt's verdict, from the request on.
        first_byte_s: Until the first byte of the answer; None if there was none.
        duration_s: Until the end.
        guard_s: Part of that in which the answer waited for the guard; the prompt's verdict is not in it.
        num_tokens: Tokens judged in the answer.
        error: Code of what went wrong; None if nothing did.
        interventions: What was changed while the answer was in progress.
    """

    call: GatewayCall
    model: str
    is_stream: bool
    status: int
    ending: EndReason
    decision: Decision
    messages: Sequence[Message]
    prompt: SideResult | None
    parts: Sequence[GuardedText]
    prompt_s: float
    first_byte_s: float | None
    duration_s: float
    guard_s: float
    num_tokens: int
    error: str | None = None
    interventions: Sequence[ChoiceIntervention] = ()


class Observer(Protocol):
    """Is told what happens to one call. Keeps texts to itself."""

    def judged(self, name: str, text: str, events: Sequence[Event]) -> None:
        """Text of the part of this name was judged. Called in the event loop; must not wait."""
        ...

    def truncated(self, name: str, num_chars: int, num_tokens: int) -> None:
        """All but the first characters and tokens of a part were dropped. Likewise."""
        ...

    async def finished(self, outcome: CallRecord) -> None:
        """A call has ended. Waited for before the client gets the last byte; once a call."""
        ...


class SilentObserver:
    """An observer that does nothing."""

    def truncated(self, name: str, num_chars: int, num_tokens: int) -> None:
        """Do nothing."""

    def judged(self, name: str, text: str, events: Sequence[Event]) -> None:
        """Do nothing."""

    async def finished(self, outcome: CallRecord) -> None:
        """Do nothing."""
