"""Agents of Pydantic AI behind a guard."""

import asyncio

import pytest

import streamward

pytest.importorskip("pydantic_ai", reason="pydantic-ai-slim is not installed; make test-integrations")

from pydantic_ai import Agent
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel

from streamward.integrations.pydantic_ai import output_validator, stream_text

pytestmark = pytest.mark.integrations


def validated(guard, says: str) -> Agent:
    agent = Agent(TestModel(custom_output_text=says))
    agent.output_validator(output_validator(guard))
    return agent


def test_output_is_judged_with_its_prompt(guard):
    assert validated(guard, "Take flour.").run_sync("bread?").output == "Take flour."
    with pytest.raises(streamward.BlockedError):
        validated(guard, "fine ##").run_sync("bread?")
    with pytest.raises(streamward.BlockedError):
        validated(guard, "fine").run_sync("# please")


class Scripted:
    """A streaming model that counts how often it is asked."""

    def __init__(self, *pieces: str) -> None:
        self.num_calls = 0
        self._pieces = pieces

    async def stream(self, messages, info):
        self.num_calls += 1
        for piece in self._pieces:
            yield piece


async def streamed(guard, model: Scripted, prompt: str) -> list[str]:
    agent, found = Agent(FunctionModel(stream_function=model.stream)), []
    try:
        async for text in stream_text(agent, prompt, guard=guard):
            found.append(text)
    except streamward.BlockedError as error:
        found.append(f"[{error.decision.side}]")
    return found


def test_a_stream_is_released_as_the_guard_judges_it(guard):
    found = asyncio.run(streamed(guard, Scripted("Take ", "flour", "."), "bread?"))
    assert "".join(found) == "Take flour."
    assert len(found) > 1


def test_a_stream_ends_where_the_guard_blocks(guard):
    assert asyncio.run(streamed(guard, Scripted("fine ", "##", " more"), "bread?")) == ["fine ", "[response]"]


def test_a_blocked_prompt_does_not_reach_the_model(guard):
    model = Scripted("fine")
    assert asyncio.run(streamed(guard, model, "# please")) == ["[prompt]"]
    assert model.num_calls == 0
