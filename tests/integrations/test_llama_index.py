"""LlamaIndex's own engines over a guarded LLM."""

import asyncio

import pytest

import streamward
from streamward.policy import Policy, SidePolicy
from streamward.schema import Action
from tests.server.marked_guard import marked_moderator

pytest.importorskip("llama_index.core", reason="llama-index-core is not installed; make test-integrations")

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import MockLLM

from streamward.integrations.llama_index import GuardedLLM

pytestmark = pytest.mark.integrations
QUESTION = [ChatMessage(role="user", content="hello")]


class Scripted(MockLLM):
    """An LLM that says one text, letter by letter."""

    says: str = ""

    def __init__(self, says: str) -> None:
        super().__init__(is_chat_model=True)
        self.says = says

    def stream_chat(self, messages, **kwargs):
        for letter in self.says:
            yield ChatResponse(message=ChatMessage(role="assistant", content=""), delta=letter)

    async def astream_chat(self, messages, **kwargs):
        async def answer():
            for each in self.stream_chat(messages):
                yield each

        return answer()


def said(responses) -> str:
    return "".join(response.delta for response in responses)


def test_text_is_released_piece_by_piece(guard):
    responses = list(GuardedLLM(Scripted("Take flour."), guard).stream_chat(QUESTION))
    assert said(responses) == responses[-1].message.content == "Take flour."
    assert len(responses) > 1


def test_a_stream_ends_where_the_guard_blocks(guard):
    found = []
    with pytest.raises(streamward.BlockedError):
        found += GuardedLLM(Scripted("fine ## more"), guard).stream_chat(QUESTION)
    for response in found:
        assert "#" not in response.delta


def test_asyncio_gives_the_same(guard):
    async def run() -> str:
        found = ""
        try:
            async for response in await GuardedLLM(Scripted("fine ## more"), guard).astream_chat(QUESTION):
                found += response.delta
        except streamward.BlockedError:
            found += "[blocked]"
        return found

    assert asyncio.run(run()) == "fine [blocked]"


def test_whole_answers_are_judged_too(guard):
    assert GuardedLLM(Scripted("fine"), guard).chat(QUESTION).message.content == "fine"
    with pytest.raises(streamward.BlockedError):
        GuardedLLM(Scripted("fine ##"), guard).chat(QUESTION)
    with pytest.raises(streamward.BlockedError):
        GuardedLLM(Scripted("fine"), guard).chat([ChatMessage(role="user", content="#")])


def test_completions_are_judged_too(guard):
    assert GuardedLLM(MockLLM(), guard).complete("hello").text == "hello"
    with pytest.raises(streamward.BlockedError):
        GuardedLLM(MockLLM(), guard).complete("hello #")


def test_a_policy_may_say_something_instead():
    policy = Policy(name="mine", replacement="No.", response=SidePolicy(unsafe=Action.REPLACE))
    with marked_moderator(policy) as guard:
        assert GuardedLLM(Scripted("fine ## more"), guard).chat(QUESTION).message.content == "fine No."


def test_a_chat_engine_streams_through_the_guard(guard):
    engine = SimpleChatEngine.from_defaults(llm=GuardedLLM(Scripted("Take flour."), guard))
    assert "".join(engine.stream_chat("bread?").response_gen) == "Take flour."
    assert not engine._llm.metadata.is_function_calling_model
