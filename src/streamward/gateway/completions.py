"""`/v1/completions`."""

from collections.abc import Mapping

from streamward.errors import InputError
from streamward.gateway.choices import FINISH_REASONS, ChoicesFormat, Layout, Opaque
from streamward.gateway.config import GatewayLimits, UpstreamConfig
from streamward.gateway.logprobs import keep_spelled_columns
from streamward.gateway.prompts import read_count, read_flag, read_model, refuse_unread
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import Leaf, Shape, Text
from streamward.gateway.wire import ClientRequest, Prompt
from streamward.schema import Message, Role

_SHAPE: Mapping[str, Shape] = {
    "index": None,
    "text": Text(),
    "logprobs": Leaf.CLEANED,
    "finish_reason": FINISH_REASONS,
}


def _clean_logprobs(choice: JsonObject, opaque: Opaque) -> None:
    if choice.get("logprobs") is not None:
        choice["logprobs"] = keep_spelled_columns(choice.get("logprobs"), choice.get("text"), opaque=opaque)


LAYOUT = Layout(
    object_name="text_completion",
    document_name="text_completion",
    event_shape=_SHAPE,
    document_shape=_SHAPE,
    clean_logprobs=_clean_logprobs,
    content=lambda _: ("text",),
    say=lambda text, _: {"text": text},
    shorten=lambda choice: {"text": choice.get("text", "")},
    add=lambda text: {"text": text},
)


def read_completion(body: JsonObject, config: UpstreamConfig, *, limits: GatewayLimits) -> ChoicesFormat:
    """Understand a request. Each of its prompts is read as a user's turn.

    Raises:
        InputError: It is malformed, or has what the guard does not read.
    """
    refuse_unread(body, ("prompt_embeds",), config.prompt)
    given = body.get("prompt")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= limits.max_guard_streams:
        raise InputError(f"prompt must be a string or a list of 1 to {limits.max_guard_streams} strings")
    if not all(isinstance(text, str) for text in texts):
        if config.prompt.unjudged_input == "refuse" or not is_token_ids(texts):
            raise InputError("prompt has token ids; this gateway judges text and refuses what it cannot judge")
        texts = [""] * (1 if isinstance(texts[0], int) else len(texts))
    suffix = body.get("suffix") or ""
    if not isinstance(suffix, str):
        raise InputError("suffix must be a string")
    request = ClientRequest(
        body=body,
        model=read_model(body, config.models),
        prompts=[Prompt((Message(Role.USER, "\n".join(part for part in (text, suffix) if part)),)) for text in texts],
        num_choices=read_count(body, "n", most=limits.max_guard_streams),
        is_stream=read_flag(body, "stream"),
    )
    return ChoicesFormat(request, LAYOUT, opaque=config.release.unjudged_output, id_prefix="cmpl")


def is_token_ids(values: list[object]) -> bool:
    """Return whether a list holds token ids of one text, or of several."""
    if all(type(value) is int for value in values):
        return True
    return all(isinstance(value, list) and all(type(item) is int for item in value) for value in values)
