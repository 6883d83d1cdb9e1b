"""Places of the model's text in events and items of `/v1/responses`."""

from collections.abc import Mapping

from streamward.errors import UpstreamError
from streamward.gateway.logprobs import Opaque, keep_spelled
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import ENVELOPE, Each, FieldKey, FieldScanner, Kind, Leaf, Shape, Text, TextField

GROUP = 0
"""A response has one choice."""
_ATOMIC = Text(is_cuttable=False)
_REASONING = Text(is_reasoning=True)
_PART: Mapping[str, Shape] = {
    "type": Leaf.IDENTIFIER,
    "text": Text(),
    "refusal": Text(),
    "transcript": Text(),
    "data": Leaf.OPAQUE,
    "annotations": None,
    "logprobs": Leaf.CLEANED,
}
_ITEM: Mapping[str, Shape] = {
    "id": Leaf.IDENTIFIER,
    "type": Leaf.IDENTIFIER,
    "status": Leaf.IDENTIFIER,
    "role": Leaf.IDENTIFIER,
    "phase": Leaf.IDENTIFIER,
    "call_id": Leaf.IDENTIFIER,
    "name": _ATOMIC,
    "arguments": _ATOMIC,
    "input": _ATOMIC,
    "code": _ATOMIC,
    "content": Each(_PART),
    "summary": Each({"type": Leaf.IDENTIFIER, "text": _REASONING}),
    "encrypted_content": Leaf.OPAQUE,
    "result": Leaf.OPAQUE,
}
_POSITIONS: Mapping[str, Shape] = {
    "type": Leaf.IDENTIFIER,
    "item_id": Leaf.IDENTIFIER,
    "obfuscation": Leaf.DROPPED,
}
_RESPONSE: Mapping[str, Shape] = {
    "id": Leaf.IDENTIFIER,
    "object": frozenset({"response"}),
    "status": Leaf.IDENTIFIER,
    "model": Leaf.IDENTIFIER,
    "output": Leaf.CLEANED,
    "error": {"code": Leaf.IDENTIFIER, "message": None},
    "incomplete_details": {"reason": Leaf.IDENTIFIER},
    "service_tier": Leaf.IDENTIFIER,
    "truncation": Leaf.IDENTIFIER,
    "tool_choice": Leaf.IDENTIFIER,
    "previous_response_id": Leaf.IDENTIFIER,
    "text": {"format": {"type": Leaf.IDENTIFIER}, "verbosity": Leaf.IDENTIFIER},
    "reasoning": {"effort": Leaf.IDENTIFIER, "summary": Leaf.IDENTIFIER},
}
LAST = ("response.completed", "response.incomplete", "response.failed")
"""Types of the events that end a response."""


def field_of(event: JsonObject, *path: str) -> FieldKey:
    """Return the field an event is about: `_index` names are looked up in it."""
    parts: list[int | str] = [GROUP, number_of(event, "output_index")]
    parts += [number_of(event, name) if name.endswith("_index") else name for name in path]
    return tuple(parts)


_TEXT = ("content", "content_index", "text")
_REFUSAL = ("content", "content_index", "refusal")
_SUMMARY = ("summary", "summary_index", "text")
WORDS: Mapping[str, tuple[str, tuple[str, ...], Text]] = {
    "response.output_text": ("text", _TEXT, Text()),
    "response.refusal": ("refusal", _REFUSAL, Text()),
    "response.reasoning_text": ("text", _TEXT, _REASONING),
    "response.reasoning_summary_text": ("text", _SUMMARY, _REASONING),
    "response.function_call_arguments": ("arguments", ("arguments",), _ATOMIC),
    "response.mcp_call_arguments": ("arguments", ("arguments",), _ATOMIC),
    "response.custom_tool_call_input": ("input", ("input",), _ATOMIC),
    "response.code_interpreter_call_code": ("code", ("code",), _ATOMIC),
    "response.audio.transcript": ("transcript", ("transcript",), Text()),
}
"""Type of an event without `.delta` or `.done` -> where `.done` has the whole, which field it is, what it is."""


def scan_event(body: JsonObject, name: str, *, opaque: Opaque, client_strings: frozenset[str]) -> list[TextField]:
    """Return the slots of an event.

    Args:
        body: The event; changed where something may not pass.
        name: Its type.
        opaque: What happens to values that cannot be judged.
        client_strings: Strings of the client, which may be repeated to it outside of the output.

    Raises:
        UpstreamError: It is not what the format says.
    """
    stem, _, end = name.rpartition(".")
    if stem in WORDS and end in ("delta", "done"):
        return _scan_words(body, name, opaque=opaque)
    scanner = FieldScanner(opaque, Kind.WHOLE)
    at = (GROUP, name)
    if name.startswith("response.output_item."):
        scanner.scan(body, {**_POSITIONS, "item": Leaf.CLEANED}, at=at)
        _scan_item(scanner, body.get("item"), number_of(body, "output_index"))
    elif name.startswith(("response.content_part.", "response.reasoning_summary_part.")):
        scanner.scan(body, {**_POSITIONS, "part": Leaf.CLEANED}, at=at)
        _scan_part(scanner, body.get("part"), field_of(body, *_TEXT[:2] if "content" in name else _SUMMARY[:2]))
    elif isinstance(response := body.get("response"), dict):
        scanner.scan(body, {**_POSITIONS, "response": Leaf.CLEANED}, at=at)
        scanner.slots += scan_response(response, opaque=opaque, client_strings=client_strings)
    else:
        media = {"partial_image_b64": Leaf.OPAQUE, "delta": Leaf.OPAQUE if name == "response.audio.delta" else None}
        scanner.scan(body, {**_POSITIONS, **media}, at=(*at, number_of(body, "output_index")))
    return scanner.slots


def scan_response(response: JsonObject, *, opaque: Opaque, client_strings: frozenset[str]) -> list[TextField]:
    """Return the slots of a whole response; arguments and errors as for an event."""
    envelope = FieldScanner(opaque, Kind.WHOLE, client_strings)
    envelope.scan(response, _RESPONSE, at=(ENVELOPE, "response"))
    output = response.get("output")
    if output is not None and not isinstance(output, list):
        raise UpstreamError("the upstream's output is not a list")
    items = FieldScanner(opaque, Kind.WHOLE)
    for index, item in enumerate(output or []):
        _scan_item(items, item, index)
    return envelope.slots + items.slots


def _scan_words(body: JsonObject, name: str, *, opaque: Opaque) -> list[TextField]:
    stem, _, end = name.rpartition(".")
    whole, path, shape = WORDS[stem]
    key, kind = ("delta", Kind.PIECE) if end == "delta" else (whole, Kind.WHOLE)
    _clean_logprobs(body, key, opaque)
    scanner = FieldScanner(opaque)
    is_text = isinstance(body.get(key), str)
    known: Mapping[str, Shape] = {key: Leaf.CLEANED if is_text else shape}
    scanner.scan(body, {**_POSITIONS, "logprobs": Leaf.CLEANED, **known}, at=(GROUP, name))
    if is_text:
        scanner.slots.append(TextField(body, key, str(body[key]), field_of(body, *path), kind, shape))
    return scanner.slots


def _scan_item(scanner: FieldScanner, item: object, index: int) -> None:
    if item is None:
        return
    if not isinstance(item, dict):
        raise UpstreamError("the upstream's output item is not an object")
    scanner.scan(
        item, {**_ITEM, "content": Leaf.CLEANED} if isinstance(item.get("content"), list) else _ITEM, at=(GROUP, index)
    )
    content = item.get("content")
    for place, part in enumerate(content if isinstance(content, list) else []):
        _scan_part(scanner, part, (GROUP, index, "content", place), is_reasoning=item.get("type") == "reasoning")


def _scan_part(scanner: FieldScanner, part: object, at: FieldKey, *, is_reasoning: bool = False) -> None:
    if part is None:
        return
    if not isinstance(part, dict):
        raise UpstreamError("the upstream's content part is not an object")
    _clean_logprobs(part, "text", scanner.opaque)
    is_reasoning = is_reasoning or at[2] == "summary" or part.get("type") == "reasoning_text"
    scanner.scan(part, {**_PART, "text": _REASONING} if is_reasoning else _PART, at=at)


def _clean_logprobs(holder: JsonObject, key: str, opaque: Opaque) -> None:
    if "logprobs" in holder:
        holder["logprobs"] = keep_spelled(holder["logprobs"], holder.get(key), opaque=opaque)


def number_of(body: Mapping[str, object], name: str) -> int:
    """Return an index; 0 if there is none."""
    value = body.get(name)
    return value if type(value) is int else 0
