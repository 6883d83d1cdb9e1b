"""Chat and text completions: answers that are a list of choices."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import uuid4

from streamward.errors import UpstreamError
from streamward.gateway.release_buffer import Chunk, Cutoff
from streamward.gateway.reported_errors import is_set
from streamward.gateway.sse import encode, encode_done
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import ENVELOPE, Each, FieldKey, FieldScanner, Leaf, Shape, TextField
from streamward.gateway.wire import ClientRequest
from streamward.moderation.message_parts import is_identifier

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
OBJECTS = frozenset({"chat.completion", "chat.completion.chunk", "text_completion"})
_AZURE_RESULT: Mapping[str, Shape] = {"severity": frozenset({"safe", "low", "medium", "high"})}
AZURE_RESULTS: Mapping[str, Shape] = {
    name: _AZURE_RESULT
    for name in ("hate", "self_harm", "sexual", "violence", "jailbreak", "profanity", "protected_material_text")
}
"""The results of Azure's own content filter, as an upstream at Azure states them."""
ENVELOPE_SHAPE: Mapping[str, Shape] = {
    "id": Leaf.IDENTIFIER,
    "object": OBJECTS,
    "created": None,
    "model": Leaf.IDENTIFIER,
    "system_fingerprint": Leaf.IDENTIFIER,
    "service_tier": Leaf.IDENTIFIER,
    "usage": None,
    "choices": Leaf.CLEANED,
    "obfuscation": Leaf.DROPPED,
    "prompt_filter_results": Each({"content_filter_results": AZURE_RESULTS}),
}
_KEPT = ("id", "object", "created", "model", "system_fingerprint")  # fields of the envelope that our own events repeat

Opaque = Literal["drop", "block", "pass"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The differences between the two formats.

    Attributes:
        object_name: Field `object` of a streamed event.
        document_name: Field `object` of an answer that is not streamed.
        event_shape: Schema of a choice in an event.
        document_shape: Schema of a choice in an answer that is not streamed.
        clean_logprobs: Takes out of a choice's log probabilities what does not spell its text.
        content: Path of the answer's text in a choice; in an event, or in a document.
        say: Gives the part of a choice that says a text; in an event, or in a document.
        shorten: Gives the part of a choice that may stand where the rest was cut off.
        add: Gives the part of a choice in an event that adds a text.
    """

    object_name: str
    document_name: str
    event_shape: Mapping[str, Shape]
    document_shape: Mapping[str, Shape]
    clean_logprobs: Callable[[JsonObject, Opaque], None]
    content: Callable[[bool], FieldKey]
    say: Callable[[str, bool], JsonObject]
    shorten: Callable[[JsonObject], JsonObject]
    add: Callable[[str], JsonObject]


class _End(NamedTuple):
    """The choice of an event that has the reason, and the reason's slot if it is no word of the format."""

    choice: JsonObject
    reason: TextField | None


class ChoicesFormat:
    """One request for completions and its answer.

    A choice of a stream ends once: with the first reason that was given, and behind the last text that came.
    """

    ends_with_choice = False

    def __init__(self, request: ClientRequest, layout: Layout, *, opaque: Opaque, id_prefix: str) -> None:
        """Wait for the answer."""
        self.request = request
        self._layout = layout
        self._opaque = opaque
        self._envelope: JsonObject = {
            "id": f"{id_prefix}-{uuid4().hex}",
            "object": layout.object_name,
            "created": int(time.time()),
            "model": request.model,
        }
        self._ends: dict[int, _End] = {}  # reason for the end, by choice

    def content_of(self, group: int) -> FieldKey:
        """Return the field of a choice's text; see `WireFormat`."""
        return (group, *self._layout.content(not self.request.is_stream))

    def read_event(self, body: JsonObject, size: int) -> list[Chunk]:
        """Take an event apart: one chunk for each choice in it; see `WireFormat`."""
        choices, rest = self._open(body)
        if not choices:
            body = {**rest, "choices": []}
            return [self._chunk(body, body, None, size=size)]
        chunks = []
        for place, choice in enumerate(choices):
            self._number(choice, place)
            is_last = place == len(choices) - 1
            envelope = rest if is_last else {name: rest[name] for name in _KEPT if name in rest}
            event: JsonObject = {**envelope, "choices": [choice]}
            chunks.append(self._chunk(event, event, choice, size=size // len(choices)))
        return chunks

    def read_document(self, body: JsonObject, size: int) -> list[Chunk]:
        """Take a whole answer apart: one chunk for each choice, and one for the rest; see `WireFormat`."""
        choices, rest = self._open(body)
        if not choices:
            raise UpstreamError("the upstream's answer has no choices")
        for place, choice in enumerate(choices):
            self._number(choice, place)
        chunks = [self._chunk(choice, {}, choice, size=size, is_document=True) for choice in choices]
        return [*chunks, self._chunk(rest, rest, None, size=0)]

    def join(self, chunks: Sequence[Chunk], stops: Sequence[Cutoff], extras: Mapping[int, JsonObject]) -> JsonObject:
        """Put the choices together again, by their index; see `WireFormat`."""
        rest = next((chunk.body for chunk in chunks if chunk.group is None), None)
        choices = {chunk.group: chunk.body for chunk in chunks if chunk.group is not None}
        for stop in stops:
            choices[stop.group] = self._stopped(stop)
        document: JsonObject = {**self._envelope, "object": self._layout.document_name} if rest is None else {**rest}
        document["choices"] = [
            {**choices[index], **extras.get(index, {})} for index in sorted(choices, key=lambda index: index or 0)
        ]
        return document

    def encode(self, chunk: Chunk, extra: JsonObject) -> bytes:
        """Return a chunk as an event; see `WireFormat`."""
        if not extra or chunk.group is None:
            return encode(chunk.body)
        (choice,) = _objects(chunk.body["choices"])
        return encode({**chunk.body, "choices": [{**choice, **extra}]})

    def stop(self, stop: Cutoff, extra: JsonObject) -> list[bytes]:
        """Return the rest, the replacement if there is one, and the end of a choice; see `WireFormat`."""
        events = []
        if stop.rest is not None:
            (choice,) = _objects(stop.rest.body["choices"])
            events.append(self._event(stop.group, self._layout.shorten(choice)))
        if stop.decision.message is not None:
            events.append(self._event(stop.group, self._layout.say(stop.decision.message, False)))
        return [*events, self._event(stop.group, {**self._layout.say("", False), **extra}, reason="content_filter")]

    def more(self, group: int, text: str) -> list[bytes]:
        """Return an event with more text of a choice; see `WireFormat`."""
        return [self._event(group, self._layout.add(text))]

    def end(self, group: int, reason: str, *, extra: JsonObject, usage: JsonObject | None) -> list[bytes]:
        """Return the end of a choice; see `WireFormat`."""
        return [self._event(group, {**self._layout.add(""), **extra}, reason=reason)]

    def usage(self, usage: JsonObject) -> list[bytes]:
        """Return an event with the tokens of all choices; see `WireFormat`."""
        return [encode({**self._envelope, "choices": [], "usage": usage})]

    def changed(self, group: int, text: str, reason: str, *, usage: JsonObject) -> JsonObject:
        """Return a choice that says a text; see `WireFormat`."""
        return {"index": group, **self._layout.say(text, True), "logprobs": None, "finish_reason": reason}

    def note(self, group: int | None, extra: JsonObject) -> bytes:
        """Return an event without text; see `WireFormat`."""
        if group is None:
            return encode({**self._envelope, "choices": [], **extra})
        return self._event(group, {**self._layout.say("", False), **extra})

    def done(self) -> list[bytes]:
        """Return the end of a stream; see `WireFormat`."""
        return [encode_done()]

    def error(self, error: JsonObject) -> list[bytes]:
        """Return an error as clients of OpenAI know it, and the end; see `WireFormat`."""
        return [encode({"error": error}), encode_done()]

    def refusal(self, text: str, extra: JsonObject) -> tuple[JsonObject, list[bytes]]:
        """Return a choice that says the text and ends; see `WireFormat`."""
        groups = range(self.request.num_groups)
        document: JsonObject = {
            **self._envelope,
            "object": self._layout.document_name,
            "choices": [
                {"index": index, **self._layout.say(text, True), "logprobs": None, "finish_reason": "stop"}
                for index in groups
            ],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            **extra,
        }
        events = [encode({**self._envelope, "choices": [], **extra})] if extra else []
        for index in groups:
            events.append(self._event(index, self._layout.say(text, False)))
            events.append(self._event(index, self._layout.say("", False), reason="stop"))
        return document, [*events, encode_done()]

    def _open(self, body: JsonObject) -> tuple[list[JsonObject], JsonObject]:
        rest = {name: value for name, value in body.items() if name != "choices"}
        if "error" in rest and not is_set(rest["error"]):  # clients take any object here for an error
            del rest["error"]
        for name in _KEPT:
            value = rest.get(name)
            if type(value) is int or (isinstance(value, str) and is_identifier(value)):
                self._envelope[name] = value
        choices = body.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise UpstreamError("the upstream's choices are no list of objects")
        return choices, rest

    def _number(self, choice: JsonObject, place: int) -> None:
        """See to it that a choice has its number; one without stands in its place."""
        if choice.get("index") is None:
            choice["index"] = place if self.request.num_groups > 1 else 0
        index = choice["index"]
        if type(index) is not int or not 0 <= index < self.request.num_groups:
            raise UpstreamError("the upstream sent a choice that was not asked for")

    def _chunk(
        self,
        body: JsonObject,
        envelope: JsonObject,
        choice: JsonObject | None,
        *,
        size: int,
        is_document: bool = False,
    ) -> Chunk:
        scanner = FieldScanner(self._opaque)
        scanner.scan(envelope, ENVELOPE_SHAPE, at=(ENVELOPE,))
        if choice is None:
            return Chunk(body, scanner.slots, size=size)
        index = choice["index"]
        assert type(index) is int, "choices are numbered"
        if index in self._ends and not is_document:
            choice["finish_reason"] = None
        self._layout.clean_logprobs(choice, self._opaque)
        shape = self._layout.document_shape if is_document else self._layout.event_shape
        scanner.scan(choice, shape, at=(index,))
        ends = is_document or self._ends_with(choice, index, scanner.slots)
        return Chunk(body, scanner.slots, index, ends_group=ends, size=size)

    def _ends_with(self, choice: JsonObject, index: int, slots: Sequence[TextField]) -> bool:
        """Return whether a choice ends with this event: the reason moves to text that comes behind it."""
        end = self._ends.get(index)
        if end is not None and slots:
            choice["finish_reason"], end.choice["finish_reason"] = end.choice["finish_reason"], None
            if end.reason is not None:
                end.reason.holder = choice
            self._ends[index] = _End(choice, end.reason)
        elif choice.get("finish_reason") not in (None, ""):  # some upstreams send "" before the end
            said = (slot for slot in slots if slot.holder is choice and slot.key == "finish_reason")
            self._ends[index] = _End(choice, next(said, None))
        else:
            return False
        return True

    def _stopped(self, stop: Cutoff) -> JsonObject:
        part = self._layout.say("" if stop.decision.message is None else stop.decision.message, True)
        if stop.rest is not None and stop.decision.message is None:
            part = self._layout.shorten(stop.rest.body)
        return {"index": stop.group, **part, "logprobs": None, "finish_reason": "content_filter"}

    def _event(self, group: int, part: JsonObject, *, reason: str | None = None) -> bytes:
        choice: JsonObject = {"index": group, **part, "logprobs": None, "finish_reason": reason}
        return encode({**self._envelope, "choices": [choice]})


def _objects(value: object) -> list[JsonObject]:
    assert isinstance(value, list), "choices of a chunk are a list"
    return value
