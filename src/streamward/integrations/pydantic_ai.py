"""Pydantic AI: an output validator, and a streamed answer that is released as the guard judges it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from pydantic_ai import Agent, RunContext
from pydantic_core import to_json

from streamward import Client, Moderator, arelease, raise_if_blocked

T = TypeVar("T")


def output_validator(guard: Moderator | Client) -> Callable[[RunContext[Any], T], Awaitable[T]]:
    """Return a validator for `agent.output_validator`, which judges a run's prompt and whole output.

    Args:
        guard: From `streamward.load` or `streamward.connect`; close it yourself.

    Raises:
        BlockedError: While the agent runs: the policy blocks the prompt or the output.
    """

    async def judge(context: RunContext[Any], output: T) -> T:
        if context.partial_output:  # the output is judged when it is complete; `stream_text` judges while it grows
            return output
        prompt = context.prompt if isinstance(context.prompt, str) else None
        text = output if isinstance(output, str) else to_json(output, fallback=str).decode()
        raise_if_blocked((await guard.amoderate(prompt, text)).decision)
        return output

    return judge


async def stream_text(
    agent: Agent[Any, str], prompt: str, *, guard: Moderator | Client, **options: Any
) -> AsyncIterator[str]:
    """Run an agent and yield its text as far as the guard releases it.

    Args:
        agent: Its output is text.
        prompt: The user's text; judged before the model runs.
        guard: From `streamward.load` or `streamward.connect`; close it yourself.
        options: Options of `agent.run_stream`.

    Raises:
        BlockedError: The policy blocks the prompt, or the answer from here on.
    """
    async with guard.astream(prompt=prompt) as stream:

        async def pieces() -> AsyncIterator[str]:
            async with agent.run_stream(prompt, **options) as run:
                async for piece in run.stream_text(delta=True, debounce_by=None):
                    yield piece

        async for text in arelease(stream, pieces()):
            yield text
