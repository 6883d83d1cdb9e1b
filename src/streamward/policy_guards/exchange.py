"""Requests to a guard's endpoint, and its answers, whatever the format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from streamward.errors import UpstreamError
from streamward.policy_guards.rules import GuardRule, RuleOpinion
from streamward.schema import Message, Role

JsonValue = Any  # JSON values


@dataclass(frozen=True, slots=True)
class FormatRequest:
    """One request about one text.

    Attributes:
        path: Behind the endpoint's base URL.
        body: Without the model's name and the limits, which the endpoint's settings add.
        rules: The rules it asks about, in the order they are written in it.
        role: Whose turn is judged.
        max_tokens: Maximum tokens of the answer.
        first_token_only: Whether the probabilities of the answer's first token are all that is wanted.
    """

    path: Literal["chat/completions", "completions"]
    body: Mapping[str, JsonValue]
    rules: tuple[GuardRule, ...]
    role: Role
    max_tokens: int
    first_token_only: bool = False


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """A guard's raw answer.

    Attributes:
        text: The answer.
        reasoning: What the server keeps apart as reasoning; None if it does not.
        first_logprobs: Log probability of each of the likeliest first tokens, if they were asked for.
        prompt_tokens: As the server counts them.
        cached_tokens: Those of them it had read before.
        completion_tokens: Tokens written.
    """

    text: str
    reasoning: str | None = None
    first_logprobs: Mapping[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class GuardFormat(Protocol):
    """A published way of asking a guard about rules, and of reading its answers. Does no input or output."""

    def requests(self, messages: Sequence[Message], rules: Sequence[GuardRule]) -> list[FormatRequest]:
        """Return what to send so that every rule is asked about once.

        What is the same for every text comes first wherever the format allows it, so that the server's prefix cache
        has it.

        Args:
            messages: A conversation; its last turn, of the user or the assistant, is judged.
            rules: At least one.
        """
        ...

    def read(self, answer: EndpointAnswer, request: FormatRequest) -> list[RuleOpinion]:
        """Return an opinion on each rule of a request. Nothing is guessed: what cannot be read is an error.

        Raises:
            UpstreamError: The answer has another form, or names what is not one of the rules.
        """
        ...


def read_answer(body: JsonValue, request: FormatRequest) -> EndpointAnswer:
    """Read the body of a response.

    Raises:
        UpstreamError: It is no completion, it was cut, it is a refusal, or it has no text.
    """
    try:
        (choice,) = body["choices"]
        finish_reason = choice.get("finish_reason")
        text, reasoning = _text_of(choice, request)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise UpstreamError("the guard's endpoint did not answer with one completion") from None
    if finish_reason == "length" and not request.first_token_only:
        raise UpstreamError("the guard's answer was cut off at its token limit (max_answer_tokens)")
    if finish_reason not in (None, "stop", "length", "eos", "stop_sequence"):
        raise UpstreamError("the guard's answer ended for a reason other than its end")
    usage = body.get("usage")
    return EndpointAnswer(
        text,
        reasoning,
        first_logprobs=_first_logprobs(choice),
        prompt_tokens=_count(usage, "prompt_tokens"),
        cached_tokens=_count(_get(usage, "prompt_tokens_details"), "cached_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def _text_of(choice: JsonValue, request: FormatRequest) -> tuple[str, str | None]:
    if request.path == "completions":
        text, reasoning = choice["text"], None
    else:
        message = choice["message"]
        if message.get("refusal"):
            raise UpstreamError("the guard refused to answer")
        text, reasoning = message["content"], message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(text, str) or not (text.strip() or request.first_token_only):
        raise UpstreamError("the guard's endpoint answered without text")
    return text, reasoning if isinstance(reasoning, str) else None


def _first_logprobs(choice: JsonValue) -> dict[str, float]:
    """Return the alternatives of the first token, in the form of chat completions or of completions."""
    found = choice.get("logprobs")
    content = _get(found, "content")
    if isinstance(content, list) and content:
        pairs = [(_get(each, "token"), _get(each, "logprob")) for each in _get(content[0], "top_logprobs") or []]
    else:
        tops = _get(found, "top_logprobs")
        first = tops[0] if isinstance(tops, list) and tops else None
        pairs = list(first.items()) if isinstance(first, Mapping) else []
    return {token: float(value) for token, value in pairs if isinstance(token, str) and _is_number(value)}


def _get(value: JsonValue, key: str) -> JsonValue:
    return value.get(key) if isinstance(value, Mapping) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(usage: JsonValue, key: str) -> int:
    value = _get(usage, key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
