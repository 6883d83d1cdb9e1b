"""The embedded assistant, with random weights, continues what the gateway keeps."""

import asyncio

import httpx
import pytest

from streamward.assistant.app import create_app
from streamward.gateway.prefill_probe import probe_prefill
from streamward.policy import Policy
from tests.assistant.assistants import tiny_assistant
from tests.gateway.continuing import intervening
from tests.gateway.scripted import CONTENT, Notebook, ScriptedGuard, ask, call, chat, gateway, reasons_in, texts_in
from tests.intervene.scripted_model import step

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def assistant():
    made = tiny_assistant()
    yield httpx.ASGITransport(app=create_app(made))
    made.close()


def answered(assistant, policy: Policy, *, mark: bytes = b"#", **fields):
    notebook, guard = Notebook(), ScriptedGuard(mark=mark)
    gate = gateway(assistant, guard=guard, observer=notebook, prefill="continue_final_message")
    _, data = ask(gate, call(chat(model=MODEL, max_tokens=40, seed=3, **fields), policy=policy))
    assert guard.num_open == 0
    return data, notebook.outcomes[0]


def test_an_answer_that_is_flagged_goes_on_without_what_was_flagged(assistant):
    plain, _ = answered(assistant, Policy.load("strict"))
    text = texts_in(plain)[CONTENT]
    mark = next(letter for letter in text[12:] if letter.isascii() and letter.isalnum())
    once = Policy.load("strict").response.model_copy(update={"consecutive_tokens": 1})
    policy = intervening(step("regenerate", 8), step("stop"), hold=12, response=once)
    data, outcome = answered(assistant, policy, mark=mark.encode())
    shown = texts_in(data).get(CONTENT, "")
    assert mark not in shown
    assert outcome.interventions
    record = outcome.interventions[0].record
    assert shown[: record.at_char] == text[: record.at_char]
    assert reasons_in(data)[0] in ("length", "stop", "content_filter")


def test_an_answer_that_is_not_flagged_is_the_assistants(assistant):
    plain, _ = answered(assistant, Policy.load("strict"))
    data, outcome = answered(assistant, intervening(step("regenerate"), hold=8))
    assert texts_in(data) == texts_in(plain)
    assert outcome.interventions == ()


def test_a_probe_of_a_model_that_cannot_count_says_so(assistant):
    gate = gateway(assistant, prefill="continue_final_message", models=[MODEL])

    async def probe() -> str | None:
        try:
            return await probe_prefill(gate._upstreams["up"])
        finally:
            await gate.aclose()

    assert "something else than the next number" in (asyncio.run(probe()) or "")
