"""`/v1/responses`: a vocabulary of events, most of which repeat text that others have said."""

import time
from collections.abc import Mapping, Sequence
from uuid import uuid4

from streamward.errors import InputError, UpstreamError
from streamward.gateway.config import UpstreamConfig
from streamward.gateway.logprobs import Opaque
from streamward.gateway.prompts import read_flag, read_model, refuse_unread, to_prompt
from streamward.gateway.release_buffer import Chunk, Cutoff
from streamward.gateway.response_events import GROUP, LAST, scan_event, scan_response
from streamward.gateway.response_output import ShownOutput, message
from streamward.gateway.sse import encode
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import FieldKey
from streamward.gateway.wire import ClientRequest
from streamward.moderation.message_parts import (
    is_identifier,
    joined,
    read_content,
    read_unknown,
    refuse_data,
    spelled,
    strings_in,
    without,
    words_in,
)
from streamward.moderation.messages import read_turn
from streamward.schema import Message, Role

_TEXTS = ("input_text", "output_text", "text", "refusal")  # parts that some clients give as items
_ASKED = ("name", "arguments", "input")  # fields of a call
_FOUND = ("output", "outputs", "results", "error")  # fields of a call that contains its results


_DETAILS: Mapping[str, JsonObject] = {
    "length": {"reason": "max_output_tokens"},
    "content_filter": {"reason": "content_filter"},
}


class ResponsesFormat:
    """One request for a response and its answer."""

    ends_with_choice = True

    def __init__(self, request: ClientRequest, *, opaque: Opaque) -> None:
        """Wait for the answer."""
        self.request = request
        self._opaque = opaque
        self._client_strings = frozenset(strings_in(request.body))
        self._sequence = -1  # number of the last event that left
        self._has_ended = False
        self._shown = ShownOutput(f"msg_{uuid4().hex}")
        self._response: JsonObject = {
            "id": f"resp_{uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": request.model,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    def content_of(self, group: int) -> FieldKey:
        """Return a field that no event has: a response never goes on with what the client gave."""
        return (group, "given")

    def read_event(self, body: JsonObject, size: int) -> list[Chunk]:
        """Take an event apart; see `WireFormat`."""
        if self._has_ended:  # the client has the end of the answer already
            return []
        name = body.get("type")
        if not isinstance(name, str) or not is_identifier(name):
            raise UpstreamError("the upstream sent an event without a type")
        if isinstance(response := body.get("response"), dict):
            self._note_envelope(response)
        slots = scan_event(body, name, opaque=self._opaque, client_strings=self._client_strings)
        self._has_ended = name in LAST
        return [Chunk(body, slots, GROUP, ends_group=self._has_ended, size=size)]

    def read_document(self, body: JsonObject, size: int) -> list[Chunk]:
        """Take a whole answer, which is one chunk; see `WireFormat`."""
        self._note_envelope(body)
        slots = scan_response(body, opaque=self._opaque, client_strings=self._client_strings)
        return [Chunk(body, slots, GROUP, ends_group=True, size=size)]

    def join(self, chunks: Sequence[Chunk], stops: Sequence[Cutoff], extras: Mapping[int, JsonObject]) -> JsonObject:
        """Return the answer, or what is left of it; see `WireFormat`."""
        extra = extras.get(GROUP, {})
        if not stops:
            return {**chunks[0].body, **extra}
        (stop,) = stops
        if stop.decision.message is not None:
            return self._incomplete(
                [message([stop.decision.message], self._shown.own_id(0), status="completed")], extra
            )
        output = None if stop.rest is None else stop.rest.body.get("output")
        for index, item in enumerate(output if isinstance(output, list) else []):
            self._shown.note_item(item, index)
        return self._incomplete(self._shown.items(), extra)

    def encode(self, chunk: Chunk, extra: JsonObject) -> bytes:
        """Return a chunk as an event; see `WireFormat`."""
        body = chunk.body
        self._shown.note_event(body)
        if extra and isinstance(response := body.get("response"), dict):
            body = {**body, "response": {**response, **extra}}
        return self._encode(body)

    def stop(self, stop: Cutoff, extra: JsonObject) -> list[bytes]:
        """Return the rest, and a response that is incomplete; see `WireFormat`."""
        events = []
        if stop.rest is not None and str(stop.rest.body["type"]).endswith(".delta"):
            rest = {name: [] if name == "logprobs" else value for name, value in stop.rest.body.items()}
            self._shown.note_event(rest)
            events.append(self._encode(rest))
        if stop.decision.message is not None:
            events += self._say(stop.decision.message)
        response = self._incomplete(self._shown.items(), extra)
        return [*events, self._encode({"type": "response.incomplete", "response": response})]

    def more(self, group: int, text: str) -> list[bytes]:
        """Return more text of the last message, or of one that begins; see `WireFormat`."""
        events, at = self._shown.open_message()
        delta: JsonObject = {"type": "response.output_text.delta", **at, "delta": text, "logprobs": []}
        self._shown.note_event(delta)
        return [self._encode(event) for event in [*events, delta]]

    def end(self, group: int, reason: str, *, extra: JsonObject, usage: JsonObject | None) -> list[bytes]:
        """Return the ends of the message and of the response; see `WireFormat`."""
        status = "completed" if reason == "stop" else "incomplete"
        events = [self._encode(event) for event in self._shown.close_message(status)]
        response: JsonObject = {**self._response, "status": status, "output": self._shown.items(status), **extra}
        if usage is not None:
            response["usage"] = _usage(usage)
        if status == "incomplete":
            response["incomplete_details"] = _DETAILS[reason]
        return [*events, self._encode({"type": f"response.{status}", "response": response})]

    def usage(self, usage: JsonObject) -> list[bytes]:
        """Return nothing: the end of the response has told it; see `WireFormat`."""
        return []

    def changed(self, group: int, text: str, reason: str, *, usage: JsonObject) -> JsonObject:
        """Return a response with one message, which says a text; see `WireFormat`."""
        status = "completed" if reason == "stop" else "incomplete"
        said = message([text], self._shown.own_id(0), status=status)
        changed: JsonObject = {**self._response, "status": status, "output": [said], "usage": _usage(usage)}
        return changed if status == "completed" else {**changed, "incomplete_details": _DETAILS[reason]}

    def note(self, group: int | None, extra: JsonObject) -> bytes:
        """Return an event of a type of our own; see `WireFormat`."""
        return self._encode({"type": "response.content_filter", **extra})

    def done(self) -> list[bytes]:
        """Return nothing: the last event says that it is the last; see `WireFormat`."""
        return []

    def error(self, error: JsonObject) -> list[bytes]:
        """Return an error and a response that has failed; see `WireFormat`."""
        told: JsonObject = {"code": str(error["code"]), "message": error["message"]}
        failed = {**self._response, "status": "failed", "error": told}
        return [
            self._encode({"type": "error", **told, "param": error["param"]}),
            self._encode({"type": "response.failed", "response": {**failed, "output": self._shown.items()}}),
        ]

    def refusal(self, text: str, extra: JsonObject) -> tuple[JsonObject, list[bytes]]:
        """Return a response that says the text; see `WireFormat`."""
        begun = {**self._response, "status": "in_progress", "output": []}
        output = [message([text], self._shown.own_id(0), status="completed")]
        document = {**self._response, "status": "completed", "error": None, "output": output, **extra}
        events = [
            self._encode({"type": "response.created", "response": begun}),
            *self._say(text),
            self._encode({"type": "response.completed", "response": document}),
        ]
        return document, events

    def _note_envelope(self, response: JsonObject) -> None:
        for name in ("id", "model"):
            value = response.get(name)
            if isinstance(value, str) and is_identifier(value):
                self._response[name] = value
        if isinstance(response.get("created_at"), int | float):
            self._response["created_at"] = response["created_at"]

    def _incomplete(self, output: Sequence[JsonObject], extra: JsonObject) -> JsonObject:
        details = {"reason": "content_filter"}
        return {**self._response, "status": "incomplete", "incomplete_details": details, "output": output, **extra}

    def _say(self, text: str) -> list[bytes]:
        """Return the events of a message of the gateway's own."""
        index = self._shown.num_items
        item = message([text], self._shown.own_id(index), status="completed")
        self._shown.note_item(item, index)
        place: JsonObject = {"output_index": index}
        at: JsonObject = {**place, "item_id": item["id"], "content_index": 0}
        part: JsonObject = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        events: list[JsonObject] = [
            {"type": "response.output_item.added", **place, "item": {**item, "status": "in_progress", "content": []}},
            {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
            {"type": "response.output_text.delta", **at, "delta": text, "logprobs": []},
            {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **at, "part": part},
            {"type": "response.output_item.done", **place, "item": item},
        ]
        return [self._encode(event) for event in events]

    def _encode(self, body: JsonObject) -> bytes:
        """Number an event and write it; the upstream's numbers stay as long as they grow."""
        number = body.get("sequence_number")
        self._sequence = number if type(number) is int and number > self._sequence else self._sequence + 1
        return encode({**body, "sequence_number": self._sequence}, name=str(body["type"]))


def read_response(body: JsonObject, config: UpstreamConfig) -> ResponsesFormat:
    """Understand a request.

    Raises:
        InputError: It is malformed, or has what the guard does not read.
    """
    refuse_unread(body, ("prompt",), config.prompt)
    goes_on = any(body.get(name) for name in ("previous_response_id", "conversation", "prompt"))
    turns = _instructions(body.get("instructions")) + _read_input(
        body.get("input"), config.prompt.unread_refusal, goes_on=goes_on
    )
    request = ClientRequest(
        body=body,
        model=read_model(body, config.models),
        prompts=[to_prompt(turns)],
        num_choices=1,
        is_stream=read_flag(body, "stream"),
    )
    if read_flag(body, "background"):
        raise InputError("background must be false: an answer that is fetched later does not pass through here")
    return ResponsesFormat(request, opaque=config.release.unjudged_output)


def _usage(usage: JsonObject) -> JsonObject:
    """Return a usage with the names of responses."""
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    return {names.get(name, name): value for name, value in usage.items()}


def _instructions(given: object) -> list[tuple[str, Message]]:
    if given is None:
        return []
    if not isinstance(given, str):
        raise InputError("instructions must be a string")
    return [("system", Message(Role.SYSTEM, given))]


def _read_input(given: object, refusal: str | None, *, goes_on: bool) -> list[tuple[str, Message]]:
    """Return the turns of an input; there may be none where the request goes on with what the upstream has."""
    if isinstance(given, str):
        return [("user", Message(Role.USER, given))]
    items = [] if given is None else given
    if not isinstance(items, list) or not (items or goes_on):
        raise InputError("input must be a string or a list of at least one item")
    turns: list[tuple[str, Message]] = []
    for index, item in enumerate(items):
        turns += _read_item(item, where=f"input[{index}]", refusal=refusal)
    return turns


def _read_item(item: object, *, where: str, refusal: str | None) -> list[tuple[str, Message]]:
    """Return the turns an item stands for: a call that has its results in it is two, one without text none."""
    if not isinstance(item, dict):
        raise InputError(f"{where} must be an object")
    if "role" in item:
        return [read_turn(item, where=where, refusal=refusal)]
    kind = str(item.get("type"))
    if kind == "reasoning":
        return _turns("call", words_in(item))
    if kind in _TEXTS:
        content = read_content([item], where=where, refusal=refusal)
        return _turns("user", [*content])
    if kind.endswith("_output"):
        content = read_content(item.get("output"), where=f"{where}.output", refusal=refusal)
        return [_turn("tool", [*content, *words_in(without(item, "output"))])]
    if kind.endswith(("_call", "_request")):
        refuse_data(item, where=where, refusal=refusal)
        asked = [spelled(item.get(name), f"{where}.{name}") for name in _ASKED]
        call = _turn("call", [*asked, *words_in(without(item, *_ASKED, *_FOUND))])
        return [call, *_turns("tool", words_in({name: item.get(name) for name in _FOUND}))]
    if kind == "mcp_list_tools":
        return _turns("tool", words_in(item))
    return _turns("tool", read_unknown(item, where=where, refusal=refusal))


def _turns(role: str, texts: list[str]) -> list[tuple[str, Message]]:
    return [_turn(role, texts)] if any(texts) else []


def _turn(role: str, texts: list[str]) -> tuple[str, Message]:
    return role, Message(Role.ASSISTANT if role == "call" else Role.USER, joined(texts))
