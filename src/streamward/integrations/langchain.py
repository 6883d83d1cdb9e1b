"""LangChain: a chat model whose text and tool calls pass a guard before anybody sees them."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable

from streamward import Client, Moderator, arelease, raise_if_blocked, release


class GuardedChatModel(BaseChatModel):
    """A chat model behind a guard, for chains and agents alike, streamed or not.

    Text is released as the guard judges it, tool calls when the whole turn is judged; other content (reasoning, images)
    does not pass. A block raises BlockedError; the message of a policy with `replace` is said instead of the rest.

    Attributes:
        model: The model, or one with tools bound.
        guard: From `streamward.load` or `streamward.connect`; close it yourself.
    """

    model: Runnable[Any, Any]  # Any: LangChain's own, whose outputs differ by model
    guard: Any  # Moderator | Client; pydantic has no schema for them

    def __init__(self, model: Runnable[Any, Any], guard: Moderator | Client, **kwargs: Any) -> None:
        """Put a model behind a guard."""
        super().__init__(model=model, guard=guard, **kwargs)

    @property
    def _llm_type(self) -> str:
        return "streamward-guarded"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> "GuardedChatModel":
        """Bind tools to the model; it stays behind the guard."""
        if not isinstance(self.model, BaseChatModel):
            raise NotImplementedError("the model has no bind_tools; bind them before it is guarded")
        bound: GuardedChatModel = self.model_copy(update={"model": self.model.bind_tools(tools, **kwargs)})
        return bound

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        turn, context = _Turn(), convert_to_openai_messages(messages)
        with self.guard.stream(messages=context) as stream:
            pieces = (turn.text_of(chunk) for chunk in self.model.stream(messages, stop=stop, **kwargs))
            for text in release(stream, pieces):
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
            is_whole = not stream.decision.is_blocked
        if is_whole and turn.has_calls:
            raise_if_blocked(self.guard.moderate(messages=[*context, turn.message()]).decision)
        yield turn.rest(is_whole)

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        turn, context = _Turn(), convert_to_openai_messages(messages)
        async with self.guard.astream(messages=context) as stream:
            pieces = (turn.text_of(chunk) async for chunk in self.model.astream(messages, stop=stop, **kwargs))
            async for text in arelease(stream, pieces):
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
            is_whole = not stream.decision.is_blocked
        if is_whole and turn.has_calls:
            raise_if_blocked((await self.guard.amoderate(messages=[*context, turn.message()])).decision)
        yield turn.rest(is_whole)

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return generate_from_stream(self._stream(*args, **kwargs))

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return await agenerate_from_stream(self._astream(*args, **kwargs))


class _Turn:
    """The model's turn, kept for the parts that are judged at the end."""

    def __init__(self) -> None:
        self._whole = AIMessageChunk(content="")

    @property
    def has_calls(self) -> bool:
        return bool(self._whole.tool_calls or self._whole.invalid_tool_calls)

    def text_of(self, chunk: AIMessage) -> str:
        if not isinstance(chunk, AIMessageChunk):  # of a model that does not stream
            chunk = AIMessageChunk(content=chunk.content, tool_calls=chunk.tool_calls)
        self._whole += chunk
        return str(chunk.text)

    def message(self) -> Any:  # Any: OpenAI's dictionaries
        return convert_to_openai_messages(self._whole)

    def rest(self, is_whole: bool) -> ChatGenerationChunk:
        calls = self._whole.tool_call_chunks if is_whole else []
        rest = AIMessageChunk(content="", tool_call_chunks=calls, usage_metadata=self._whole.usage_metadata)
        return ChatGenerationChunk(message=rest)
