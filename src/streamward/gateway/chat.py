"""`/v1/chat/completions`."""

from collections.abc import Mapping

from streamward.errors import InputError
from streamward.gateway.choices import AZURE_RESULTS, FINISH_REASONS, ChoicesFormat, Layout, Opaque
from streamward.gateway.config import GatewayLimits, UpstreamConfig
from streamward.gateway.logprobs import keep_spelled
from streamward.gateway.prompts import read_count, read_flag, read_model, refuse_unread, to_prompt
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import Each, Leaf, Shape, Text
from streamward.gateway.wire import ClientRequest
from streamward.moderation.messages import read_turn

_ROLES = frozenset({"assistant", "system", "user", "tool", "developer", "function"})
_ATOMIC = Text(is_cuttable=False)
_REASONING = Text(is_reasoning=True)
_CALL: Mapping[str, Shape] = {"name": _ATOMIC, "arguments": _ATOMIC, "input": _ATOMIC}
_MESSAGE: Mapping[str, Shape] = {
    "role": _ROLES,
    "content": Text(),
    "reasoning": _REASONING,
    "reasoning_content": _REASONING,
    "refusal": Text(),
    "tool_calls": Each(
        {
            "index": None,
            "id": Leaf.IDENTIFIER,
            "type": frozenset({"function", "custom"}),
            "function": _CALL,
            "custom": _CALL,
        }
    ),
    "function_call": _CALL,
    "audio": {"id": Leaf.IDENTIFIER, "data": Leaf.OPAQUE, "transcript": Text(), "expires_at": None},
    "annotations": None,
}
_SHOWN = ("role", "content", "reasoning", "reasoning_content", "refusal")  # fields that a message keeps when it is cut


def _choice(part: str) -> Mapping[str, Shape]:
    return {
        "index": None,
        part: _MESSAGE,
        "logprobs": Leaf.CLEANED,
        "finish_reason": FINISH_REASONS,
        "content_filter_results": AZURE_RESULTS,
    }


def _clean_logprobs(choice: JsonObject, opaque: Opaque) -> None:
    found = choice.get("logprobs")
    if found is None:
        return
    part = choice.get("delta") or choice.get("message")
    if not isinstance(found, dict) or not isinstance(part, dict):
        choice.pop("logprobs", None)
        return
    choice["logprobs"] = {
        name: keep_spelled(found.get(name), part.get(name), opaque=opaque) for name in ("content", "refusal")
    }


def _say(text: str, is_document: bool) -> JsonObject:
    if is_document:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}
    return {"delta": {"role": "assistant", "content": text} if text else {}}


def _shorten(choice: JsonObject) -> JsonObject:
    for part in ("delta", "message"):
        message = choice.get(part)
        if isinstance(message, dict):
            return {part: {name: message[name] for name in _SHOWN if name in message}}
    return {}


LAYOUT = Layout(
    object_name="chat.completion.chunk",
    document_name="chat.completion",
    event_shape=_choice("delta"),
    document_shape=_choice("message"),
    clean_logprobs=_clean_logprobs,
    content=lambda is_document: ("message" if is_document else "delta", "content"),
    say=_say,
    shorten=_shorten,
    add=lambda text: {"delta": {"content": text} if text else {}},
)


def read_chat(body: JsonObject, config: UpstreamConfig, *, limits: GatewayLimits) -> ChoicesFormat:
    """Understand a request.

    Raises:
        InputError: It is malformed, or has what the guard does not read.
    """
    refuse_unread(body, ("documents", "chat_template"), config.prompt)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InputError("messages must be a list of at least one message")
    turns = [
        read_turn(message, where=f"messages[{index}]", refusal=config.prompt.unread_refusal)
        for index, message in enumerate(messages)
    ]
    request = ClientRequest(
        body=body,
        model=read_model(body, config.models),
        prompts=[to_prompt(turns)],
        num_choices=read_count(body, "n", most=limits.max_guard_streams),
        is_stream=read_flag(body, "stream"),
    )
    return ChoicesFormat(request, LAYOUT, opaque=config.release.unjudged_output, id_prefix="chatcmpl")
