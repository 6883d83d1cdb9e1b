"""OpenAI Agents SDK: guardrails for what comes into an agent and for what it answers."""

import json
from collections.abc import Sequence
from typing import Any

from agents import Agent, GuardrailFunctionOutput, InputGuardrail, OutputGuardrail, RunContextWrapper
from pydantic_core import to_json

from streamward import Client, Moderator, Result


def input_guardrail(guard: Moderator | Client, *, name: str = "streamward_input") -> InputGuardrail[Any]:
    """Return a guardrail that judges what an agent is asked, before the model runs.

    Args:
        guard: From `streamward.load` or `streamward.connect`; close it yourself.
        name: As traces call it.
    """

    async def judge(
        context: RunContextWrapper[Any], agent: Agent[Any], asked: str | list[Any]
    ) -> GuardrailFunctionOutput:
        if isinstance(asked, str):
            return _output(await guard.amoderate(prompt=asked))
        return _output(await guard.amoderate(messages=_messages(asked)))

    return InputGuardrail(guardrail_function=judge, name=name, run_in_parallel=False)


def output_guardrail(guard: Moderator | Client, *, name: str = "streamward_output") -> OutputGuardrail[Any]:
    """Return a guardrail that judges an agent's final output; output that is not text is judged as JSON.

    Args:
        guard: From `streamward.load` or `streamward.connect`; close it yourself.
        name: As traces call it.
    """

    async def judge(context: RunContextWrapper[Any], agent: Agent[Any], output: Any) -> GuardrailFunctionOutput:
        text = output if isinstance(output, str) else to_json(output, fallback=str).decode()
        return _output(await guard.amoderate(response=text))

    return OutputGuardrail(guardrail_function=judge, name=name)


def _output(result: Result) -> GuardrailFunctionOutput:
    """The tripwire is triggered where the policy blocks or replaces; `output_info` is the decision."""
    return GuardrailFunctionOutput(output_info=result.decision, tripwire_triggered=result.decision.is_blocked)


def _messages(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Return items of the Responses API as messages of the chat API."""
    found: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            call = {"name": item["name"], "arguments": item["arguments"]}
            found.append({"role": "assistant", "tool_calls": [{"type": "function", "function": call}]})
        elif kind == "function_call_output":
            output = item["output"]
            found.append({"role": "tool", "content": output if isinstance(output, str) else json.dumps(output)})
        elif "role" in item:
            found.append({"role": item["role"], "content": item["content"]})
    return found
