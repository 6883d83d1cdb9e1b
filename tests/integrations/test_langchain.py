"""LangChain's own chains and agents over a guarded model."""

import asyncio

import pytest

import streamward
from streamward.policy import Policy, SidePolicy
from streamward.schema import Action
from tests.server.marked_guard import marked_moderator

pytest.importorskip("langchain_core", reason="langchain-core is not installed; make test-integrations")

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from streamward.integrations.langchain import GuardedChatModel

pytestmark = pytest.mark.integrations


def fake(*answers: str | AIMessage) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(answers))


class Calling(GenericFakeChatModel):
    """A model that calls a tool when it is streamed."""

    messages: object = None
    arguments: str = '{"city": "Rome"}'

    def bind_tools(self, tools, **kwargs):
        return self.bind(**kwargs)

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        from langchain_core.outputs import ChatGenerationChunk

        if isinstance(messages[-1], ToolMessage):
            yield ChatGenerationChunk(message=AIMessageChunk(content="It is sunny."))
            return
        yield ChatGenerationChunk(message=AIMessageChunk(content="Let me look. "))
        for part in (self.arguments[:5], self.arguments[5:]):
            named = {"name": "weather", "id": "call_1"} if part == self.arguments[:5] else {"name": None, "id": None}
            calls = [{**named, "args": part, "index": 0, "type": "tool_call_chunk"}]
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls))


def test_a_chain_streams_what_is_released(guard):
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | GuardedChatModel(fake("Take flour."), guard)
    assert "".join((chain | StrOutputParser()).stream({"question": "bread?"})) == "Take flour."


def test_a_stream_ends_where_the_guard_blocks(guard):
    model, found = GuardedChatModel(fake("fine ## more text"), guard), []
    with pytest.raises(streamward.BlockedError) as blocked:
        for chunk in model.stream("hello"):
            found.append(chunk.text)
    assert "".join(found) == "fine "
    assert blocked.value.decision.side == "response"


def test_asyncio_gives_the_same(guard):
    async def run() -> str:
        found = ""
        try:
            async for chunk in GuardedChatModel(fake("fine ## more text"), guard).astream("hello"):
                found += chunk.text
        except streamward.BlockedError as error:
            found += f"[{error.decision.category}]"
        return found

    assert asyncio.run(run()) == "fine [Violent]"
    assert asyncio.run(GuardedChatModel(fake("fine"), guard).ainvoke("hello")).text == "fine"


def test_an_answer_that_is_not_streamed_is_judged_too(guard):
    assert GuardedChatModel(fake("fine"), guard).invoke("hello").text == "fine"
    with pytest.raises(streamward.BlockedError):
        GuardedChatModel(fake("fine ##"), guard).invoke("hello")


def test_a_blocked_prompt_does_not_reach_the_model(guard):
    model = fake("fine")
    with pytest.raises(streamward.BlockedError):
        GuardedChatModel(model, guard).invoke([HumanMessage("# please")])
    assert next(model.messages) == "fine"


def test_a_policy_may_say_something_instead():
    policy = Policy(name="mine", replacement="No.", response=SidePolicy(unsafe=Action.REPLACE))
    with marked_moderator(policy) as guard:
        answer = GuardedChatModel(fake(AIMessage("fine ## more")), guard).invoke("hello")
        assert answer.text == "fine No."


def test_an_agent_calls_tools_behind_the_guard(guard):
    agents = pytest.importorskip("langchain.agents")

    def weather(city: str) -> str:
        """Tell the weather."""
        return f"sun in {city}"

    agent = agents.create_agent(GuardedChatModel(Calling(), guard), [weather])
    messages = agent.invoke({"messages": [HumanMessage("weather?")]})["messages"]
    assert [message.text for message in messages] == ["weather?", "Let me look. ", "sun in Rome", "It is sunny."]


def test_tool_calls_are_judged_before_they_leave(guard):
    found = []
    with pytest.raises(streamward.BlockedError):
        for chunk in GuardedChatModel(Calling(arguments='{"city": "##"}'), guard).stream("weather?"):
            found.append(chunk)
    assert not any(chunk.tool_call_chunks for chunk in found)


def test_callbacks_see_released_text_only(guard):
    from langchain_core.callbacks import BaseCallbackHandler

    class Seen(BaseCallbackHandler):
        def __init__(self):
            self.tokens = []

        def on_llm_new_token(self, token, **kwargs):
            self.tokens.append(token)

    seen = Seen()
    with pytest.raises(streamward.BlockedError):
        list(GuardedChatModel(fake("fine ## more"), guard).stream("hello", {"callbacks": [seen]}))
    assert "#" not in "".join(seen.tokens)
    assert "".join(seen.tokens) == "fine "
