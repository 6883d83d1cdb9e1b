"""LlamaIndex: an LLM whose text passes a guard before anybody sees it, for chat and query engines."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms import LLM, CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from streamward import Client, Moderator, arelease, release

T = TypeVar("T")


class GuardedLLM(CustomLLM):
    """An LLM behind a guard. Text is released token by token as the guard judges it; nothing else passes.

    Raises:
        BlockedError: While it runs: the policy blocks the prompt or the answer. A policy with `replace` has its message
            said instead.
    """

    llm: LLM
    guard: Any  # Moderator | Client; pydantic has no schema for them

    def __init__(self, llm: LLM, guard: Moderator | Client, **kwargs: Any) -> None:
        """Put an LLM behind a guard, from `streamward.load` or `streamward.connect`; close it yourself."""
        super().__init__(llm=llm, guard=guard, **kwargs)

    @property
    def metadata(self) -> LLMMetadata:
        """Metadata of the LLM without function calling, since calls of functions do not pass."""
        return self.llm.metadata.model_copy(update={"is_function_calling_model": False})

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Complete a prompt."""
        return _last(self.stream_complete(prompt, formatted, **kwargs), CompletionResponse(text="", delta=""))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Complete a prompt, piece by piece."""
        with self.guard.stream(prompt=prompt) as stream:
            pieces = (each.delta or "" for each in self.llm.stream_complete(prompt, formatted, **kwargs))
            text = ""
            for piece in release(stream, pieces):
                text += piece
                yield CompletionResponse(text=text, delta=piece)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        return _last(self.stream_chat(messages, **kwargs), _response("", ""))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation, piece by piece."""
        with self.guard.stream(messages=_plain(messages)) as stream:
            pieces = (each.delta or "" for each in self.llm.stream_chat(messages, **kwargs))
            text = ""
            for piece in release(stream, pieces):
                text += piece
                yield _response(text, piece)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer a conversation, piece by piece, without blocking the event loop."""

        async def answer() -> ChatResponseAsyncGen:
            async with self.guard.astream(messages=_plain(messages)) as stream:
                pieces = (each.delta or "" async for each in await self.llm.astream_chat(messages, **kwargs))
                text = ""
                async for piece in arelease(stream, pieces):
                    text += piece
                    yield _response(text, piece)

        return answer()


def _plain(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [{"role": message.role.value, "content": message.content or ""} for message in messages]


def _response(text: str, delta: str) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role="assistant", content=text), delta=delta)


def _last(responses: Iterable[T], nothing: T) -> T:
    return [nothing, *responses][-1]
