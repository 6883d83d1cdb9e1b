"""Requests that make an upstream go on with an answer: assistant prefill, as far as each kind of server has it."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

from streamward.gateway.config import UpstreamConfig
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.wire import ClientRequest, FormatName
from streamward.intervene.generation import GenerationPrefix
from streamward.intervene.wording import FRESH_START_NOTE

_MAX_TEMPERATURE = 2.0  # the limit of OpenAI's API
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_SAMPLING = (
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "frequency_penalty", "presence_penalty",
    "repetition_penalty", "logit_bias", "user",
)  # fmt: skip
_CONTINUING = frozenset({"continue_final_message", "prefix", "assistant_last", "completions"})

RenderChat = Callable[[Sequence[JsonObject]], str]
"""Writes messages of a chat in the words of a model's template, up to where the assistant's answer begins."""


@dataclass(frozen=True, slots=True)
class ContinuationRequest:
    """A request to an upstream, so that an answer goes on.

    Attributes:
        path: Behind its base URL.
        body: The request.
        repeated: Text that its answer begins with although it was given; empty if the answer begins behind it.
    """

    path: str
    body: JsonObject
    repeated: str = ""


class ContinuationWriter:
    """Writes such requests for the choices of one call."""

    def __init__(
        self, request: ClientRequest, wire: FormatName, config: UpstreamConfig, *, render: RenderChat | None
    ) -> None:
        """Take the client's request.

        Args:
            request: As the upstream got it.
            wire: Its format.
            config: What the upstream can do.
            render: Writes its chat template, for `prefill = "completions"`.
        """
        self._request = request
        self._wire = wire
        self._config = config
        self._render = render
        self._messages = self._read_messages()

    @property
    def can_continue(self) -> bool:
        """True if the upstream can go on with a text."""
        if self._wire == "completions":
            return isinstance(self._request.body.get("prompt"), str | list)
        return self._messages is not None and self._config.prefill in _CONTINUING

    @property
    def can_begin_anew(self) -> bool:
        """True if the upstream can be asked for another answer."""
        return self._wire == "completions" or self._messages is not None

    def write(self, group: int, prefix: GenerationPrefix, *, num_spent: int) -> ContinuationRequest:
        """Return the request that goes on with a choice, or that begins it anew if there is no text.

        Args:
            group: The choice.
            prefix: What it says so far.
            num_spent: Tokens of that, taken off the most that the client asked for.
        """
        body = self._common(prefix, num_spent=num_spent)
        whole = prefix.whole
        if self._wire == "completions":
            body["prompt"] = self._prompt(group) + whole
            return ContinuationRequest("/completions", body, self._repeated(whole))
        assert self._messages is not None, "can_begin_anew was asked"
        if not self.can_continue:
            assert not prefix.text, "can_continue was asked"
            return ContinuationRequest("/chat/completions", {**body, "messages": _with_note(self._messages)})
        if self._config.prefill == "completions" and self._render is not None:
            prompt = self._render(_without_prefill(self._messages)) + _prefill_of(self._messages) + whole
            kept = {name: value for name, value in body.items() if name in (*_SAMPLING, "stream", "stream_options")}
            limit = next((body[name] for name in _LIMITS if name in body), None)
            kept |= {"prompt": prompt} if limit is None else {"prompt": prompt, "max_tokens": limit}
            return ContinuationRequest("/completions", kept, self._repeated(whole))
        given = _prefill_of(self._messages) + whole
        messages = _without_prefill(self._messages)
        body |= self._prefilled(messages, given) if given else {"messages": messages}
        return ContinuationRequest("/chat/completions", body, self._repeated(given))

    def _prefilled(self, messages: list[JsonObject], given: str) -> JsonObject:
        last: JsonObject = {"role": "assistant", "content": given}
        if self._config.prefill == "prefix":
            last["prefix"] = True
        fields: JsonObject = {"messages": [*messages, last]}
        if self._config.prefill == "continue_final_message":
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        return fields

    def _repeated(self, given: str) -> str:
        return given if self._config.prefill_is_repeated else ""

    def _common(self, prefix: GenerationPrefix, *, num_spent: int) -> JsonObject:
        """Return the request without what it asks and how its answer is told."""
        body = deepcopy(self._request.body)
        if self._wire == "responses":
            body = {name: body[name] for name in (*_SAMPLING, "max_output_tokens") if name in body}
            if "max_output_tokens" in body:
                body["max_completion_tokens"] = body.pop("max_output_tokens")
        for name in ("n", "best_of", "logprobs", "top_logprobs", "echo", "suffix", "prompt", "messages"):
            body.pop(name, None)
        if body.get("tools"):
            body["tool_choice"] = "none"  # only the text of the rest is read
        for name in _LIMITS:
            limit = body.get(name)
            if type(limit) is int:
                body[name] = max(1, limit - num_spent)
        if prefix.raise_temperature:
            given = body.get("temperature")
            before = given if isinstance(given, int | float) else 1.0
            body["temperature"] = min(_MAX_TEMPERATURE, before + prefix.raise_temperature)
        if type(seed := body.get("seed")) is int:
            body["seed"] = seed + prefix.attempt
        options: JsonObject = {"include_usage": True}
        if self._config.prefill == "continue_final_message":
            options["continuous_usage_stats"] = True
        return {**body, "stream": True, "stream_options": options}

    def _prompt(self, group: int) -> str:
        given = self._request.body["prompt"]
        if isinstance(given, list):
            given = given[min(group // self._request.num_choices, len(given) - 1)]
        return given if isinstance(given, str) else ""

    def _read_messages(self) -> list[JsonObject] | None:
        """Return the conversation as messages of a chat; None where it has what these cannot say."""
        body = self._request.body
        if self._wire == "chat/completions":
            given = body.get("messages")
            return [dict(each) for each in given if isinstance(each, dict)] if isinstance(given, list) else None
        if self._wire != "responses":
            return None
        if any(body.get(name) for name in ("previous_response_id", "conversation", "prompt", "tools")):
            return None
        instructions, given = body.get("instructions"), body.get("input")
        turns: list[JsonObject] = [{"role": "system", "content": instructions}] if instructions else []
        if isinstance(given, str):
            return [*turns, {"role": "user", "content": given}]
        for item in given if isinstance(given, list) else [None]:
            turn = _turn(item)
            if turn is None:
                return None
            turns.append(turn)
        return turns


def _turn(item: object) -> JsonObject | None:
    """Return a message of `/v1/responses` as one of a chat; None for other items, and parts that are no text."""
    if not isinstance(item, dict) or not isinstance(role := item.get("role"), str):
        return None
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        return None
    return {"role": role, "content": "".join(map(str, texts))}


def _prefill_of(messages: Sequence[JsonObject]) -> str:
    """Return what the client makes the answer begin with."""
    last = messages[-1] if messages else {}
    content = last.get("content")
    return content if last.get("role") == "assistant" and isinstance(content, str) else ""


def _without_prefill(messages: Sequence[JsonObject]) -> list[JsonObject]:
    return list(messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages)


def _with_note(messages: Sequence[JsonObject]) -> list[JsonObject]:
    """Return the conversation with a note of the system that an earlier draft was withdrawn."""
    first = messages[0] if messages else {}
    if first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
        return [{**first, "content": f"{first['content']}\n\n{FRESH_START_NOTE}"}, *messages[1:]]
    return [{"role": "system", "content": FRESH_START_NOTE}, *messages]


def rewriting(request: ClientRequest, instruction: str, passage: str, *, model: str | None) -> ContinuationRequest:
    """Return the request that has a passage rewritten."""
    turns = [{"role": "system", "content": instruction}, {"role": "user", "content": passage}]
    body: JsonObject = {
        "model": model or request.model,
        "messages": turns,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return ContinuationRequest("/chat/completions", body)
