"""OpenAI's request and response shapes, as far as the assistant has them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamward.assistant.sampling import Sampling
from streamward.errors import InputError
from streamward.schema import Message, Role

Json = dict[str, Any]  # Any: JSON values
_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_MAX_CHOICES = 16
TokenId = Annotated[int, Field(strict=True)]


class _Wire(BaseModel):
    """Fields the assistant does not know are ignored, as clients send many."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AssistantTextPart(_Wire):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(_Wire):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[AssistantTextPart] | None = None

    def to_message(self) -> Message:
        """Return the turn in our words."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content or ())
        return Message(_ROLES[self.role], content)


class StreamOptions(_Wire):
    """Options of a streamed answer."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """True if every chunk has the usage so far, as with vLLM."""


class CommonRequest(_Wire):
    """The fields that both kinds of request share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0)
    n: int | None = Field(default=None, ge=1, le=_MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = Field(default=None)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)

    @property
    def has_usage_chunk(self) -> bool:
        """True if a streamed answer ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def has_usage_in_chunks(self) -> bool:
        """True if every chunk of a streamed answer has its usage so far."""
        return self.has_usage_chunk and self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def num_choices(self) -> int:
        """Number of answers asked for."""
        return self.n or 1

    @property
    def stops(self) -> Sequence[str]:
        """Sequences before which an answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def sampling(self, *, max_tokens: int) -> Sampling:
        """Return how to write."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
        )


class AssistantChatRequest(CommonRequest):
    """Body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, gt=0)
    logprobs: Literal[False] | None = None
    continue_final_message: bool = False
    """True if the answer goes on with the text of the last message, which is an assistant's, as with vLLM."""
    add_generation_prompt: bool | None = None
    """False where the last message is continued; otherwise true."""

    @model_validator(mode="after")
    def _continues_an_assistant_only(self) -> Self:
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt cannot both be true")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs a last message of the assistant")
        if self.add_generation_prompt is False and not self.continue_final_message:
            raise ValueError("add_generation_prompt can be false with continue_final_message only")
        return self


class CompletionRequest(CommonRequest):
    """Body of `POST /v1/completions`."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    logprobs: None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None

    def prompts(self) -> list[str | list[int]]:
        """Return each prompt, as text or as token ids.

        Raises:
            InputError: There is none.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise InputError("prompt is an empty list; give at least one text or token id")
        ids = [item for item in self.prompt if isinstance(item, int)]
        return [ids] if ids else [item for item in self.prompt if not isinstance(item, int)]


def usage(num_prompt: int, num_completion: int) -> Json:
    """Return the `usage` object."""
    total = num_prompt + num_completion
    return {"prompt_tokens": num_prompt, "completion_tokens": num_completion, "total_tokens": total}


def chat_choice(index: int, content: str, *, finish_reason: str | None) -> Json:
    """Return a choice of a whole chat answer."""
    message = {"role": "assistant", "content": content, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}


def chat_delta(index: int, delta: Mapping[str, str], *, finish_reason: str | None = None) -> Json:
    """Return a choice of one chunk of a streamed chat answer."""
    return {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason}


def text_choice(index: int, text: str, *, finish_reason: str | None = None) -> Json:
    """Return a choice of a completion, whole or in pieces."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def error_body(message: str, *, kind: str, code: str | None = None) -> Json:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
