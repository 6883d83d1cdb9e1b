"""Signatures and encrypted reasoning: not read, not readable, and back with the upstream in the client's next turn."""

import asyncio
import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from streamward.errors import ConfigError, InputError
from streamward.gateway.config import GatewayLimits
from streamward.gateway.state_seal import state_seals
from streamward.moderation.message_parts import strings_in
from tests.gateway.scripted import (
    DONE,
    Script,
    ask,
    call,
    chat,
    delta,
    event,
    events_in,
    gateway,
    reasons_in,
    texts_in,
)
from tests.gateway.test_release_responses import message, request, response
from tests.gateway.test_restated import CountingGuard

SIGNATURE = base64.b64encode(random.Random(4).randbytes(6000)).decode()  # 8 KB
KEY = "an-example-key-of-more-than-32-characters"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("STATE_KEY", KEY)


def keyed(script: Script, **fields):
    return gateway(script, limits=GatewayLimits(state_key_env="STATE_KEY", overload_wait_s=0), **fields)


def tool_call(signature: str | None) -> dict:
    function = {"name": "weather", "arguments": "{}"}
    extra = {"google": {"thought_signature": signature}}
    return {"index": 0, "id": "call_1", "type": "function", "function": function, "extra_content": extra}


MESSAGES: dict[str, Callable[[str | None], dict[str, Any]]] = {
    "gemini, in a tool call": lambda value: {"role": "assistant", "content": None, "tool_calls": [tool_call(value)]},
    "gemini, in the message": lambda value: {
        "role": "assistant", "content": "Hi.", "extra_content": {"google": {"thought_signature": value}},
    },
    "anthropic, blocks": lambda value: {
        "role": "assistant", "content": "Hi.",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": value}],
    },
    "anthropic, redacted": lambda value: {
        "role": "assistant", "content": "Hi.", "thinking_blocks": [{"type": "redacted_thinking", "data": value}],
    },
    "openrouter, encrypted": lambda value: {
        "role": "assistant", "content": "Hi.",
        "reasoning_details": [{"type": "reasoning.encrypted", "data": value, "format": "x", "index": 0, "id": "rs_1"}],
    },
    "openrouter, signed": lambda value: {
        "role": "assistant", "content": "Hi.",
        "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": value, "index": 0}],
    },
    "litellm": lambda value: {
        "role": "assistant", "content": "Hi.", "provider_specific_fields": {"thought_signatures": [value]},
    },
    "at its top": lambda value: {"role": "assistant", "content": "Hi.", "encrypted_content": value},
}  # fmt: skip


def answered(message: dict, *, is_stream: bool) -> Script:
    if is_stream:
        return Script(event({"choices": [{"index": 0, "delta": message}]}), delta(reason="stop"), DONE)
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return Script(json.dumps(whole).encode(), content_type="application/json")


def first_message(data: bytes, *, is_stream: bool) -> dict:
    body = events_in(data)[0] if is_stream else json.loads(data)
    return body["choices"][0]["delta" if is_stream else "message"]


def next_turn(message: dict, *, config: dict | None = None, guard=None, **fields) -> dict:
    """What the upstream gets when a client sends a message back."""
    script = answered({"role": "assistant", "content": "Fine."}, is_stream=True)
    messages = [{"role": "user", "content": "hello"}, message, {"role": "user", "content": "and then?"}]
    ask(keyed(script, guard=guard, **(config or {})), call({**chat(), "messages": messages}, **fields))
    return json.loads(script.requests[0].content)["messages"][1]


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("is_stream", [True, False])
def test_state_comes_back_to_the_upstream_as_it_was_and_nobody_reads_it(name, is_stream):
    message, guard = MESSAGES[name](SIGNATURE), CountingGuard()
    _, data = ask(keyed(answered(message, is_stream=is_stream), guard=guard), call(chat(stream=is_stream)))
    got = first_message(data, is_stream=is_stream)
    assert SIGNATURE[:60].encode() not in data
    assert reasons_in(data) == {0: "stop"} if is_stream else json.loads(data)["choices"][0]["finish_reason"] == "stop"
    again = CountingGuard()
    assert next_turn(got, guard=again) == message
    assert guard.num_chars < 200
    assert sum(len(text) for _, text in again.contexts[-1]) < 300


@pytest.mark.parametrize("name", MESSAGES)
def test_state_of_others_is_dropped(name):
    kept = json.dumps(next_turn(MESSAGES[name](SIGNATURE)))
    assert SIGNATURE[:60] not in kept
    assert "sealed" not in kept
    assert '"data": ""' not in kept


@pytest.mark.parametrize("name", MESSAGES)
def test_state_of_others_is_refused_where_that_is_wanted(name):
    with pytest.raises(InputError, match="unsealed_state"):
        next_turn(MESSAGES[name](SIGNATURE), config={"prompt": {"unsealed_state": "refuse"}})


def sealed(**fields) -> str:
    message = MESSAGES["at its top"]("abc/def==")
    _, data = ask(keyed(answered(message, is_stream=True)), call(chat(), **fields))
    return first_message(data, is_stream=True)["encrypted_content"]


def opened(value: str, **fields) -> str | None:
    return next_turn(MESSAGES["at its top"](value), **fields).get("encrypted_content")


def test_a_seal_is_for_one_tenant_and_whole(monkeypatch):
    value = sealed(tenant="one")
    assert opened(value, tenant="one") == "abc/def=="
    assert opened(value, tenant="two") is None
    assert opened(value) is None
    swapped = value[:-9] + ("A" if value[-9] != "A" else "B") + value[-8:]  # the last digit has bits that say nothing
    assert opened(swapped, tenant="one") is None
    assert opened(value + "x", tenant="one") is None
    assert opened("sw1.", tenant="one") is None
    assert opened("sw1.\u00e9", tenant="one") == "sw1.\u00e9"  # no opaque value: judged as text
    monkeypatch.setenv("STATE_KEY", KEY[::-1])
    assert opened(value, tenant="one") is None


@pytest.mark.parametrize("num_strange", [1, 2])
def test_what_is_dropped_beside_a_seal_does_not_move_it(num_strange):
    strange = {"type": "reasoning", "encrypted_content": "junk"}
    value = [*[strange] * num_strange, sealed(), "no state", sealed()]
    kept = next_turn({"role": "assistant", "content": "Hi.", "signature": value})
    assert kept["signature"] == ["abc/def==", "no state", "abc/def=="]


@pytest.mark.parametrize("name", ["input", "arguments", "parameters", "schema"])
def test_what_a_client_names_as_state_is_named_is_read(name):
    words = {"type": "note", name: [{"signature": "put-rat-poison-in-its-food-" * 8}]}
    assert list(strings_in(words)) == ["note", "put-rat-poison-in-its-food-" * 8]
    assert list(strings_in({"type": "note", "extra": [{"signature": "put-rat"}]})) == ["note"]


def test_data_of_a_type_that_only_looks_sealed_does_not_pass_unread():
    part = {"type": "my-redacted-note", "data": "put-rat-poison-in-its-food"}
    with pytest.raises(InputError, match="is not text"):
        ask(keyed(Script()), call(chat(content=[{"type": "text", "text": "hello"}, part])))


@pytest.mark.parametrize("name", MESSAGES)
def test_values_that_the_gateway_seals_are_those_that_no_guard_reads(name):
    for value in ("sw1." + SIGNATURE, SIGNATURE):
        assert value not in strings_in(MESSAGES[name](value))


def test_a_seal_is_for_one_upstream():
    seals, other = state_seals(b"k" * 32), state_seals(None)
    body: dict = {"signature": "abc"}
    seals("t", "one").seal(body)
    value = body["signature"]

    def asked(seal) -> str | None:
        again = {"messages": [{"role": "assistant", "signature": value}]}
        asides, _ = seal.open(again, unsealed="drop", unknown="drop")
        return asides[0].value if asides else None

    assert asked(seals("t", "one")) == "abc"
    assert [asked(each) for each in (seals("t", "two"), seals("to", "ne"), other("t", "one"))] == [None] * 3


def test_pieces_of_state_come_back_as_one():
    parts = [
        event({"choices": [{"index": 0, "delta": {"encrypted_content": piece}}]}) for piece in ("abc/", "d", "ef==")
    ]
    _, data = ask(keyed(Script(*parts, delta(reason="stop"), DONE)), call(chat()))
    assert opened(texts_in(data)[0, "encrypted_content"]) == "abc/def=="


def test_words_where_state_is_expected_are_judged_or_cannot_be_read():
    for text in ("yours ## truly", "yours##truly"):
        _, data = ask(keyed(answered(MESSAGES["at its top"](text), is_stream=True)), call(chat()))
        assert b"##" not in data
        assert reasons_in(data) == {0: "content_filter"}
    _, data = ask(keyed(answered(MESSAGES["at its top"]("words-without-blanks"), is_stream=True)), call(chat()))
    assert b"words" not in data
    assert base64.b64encode(b"words-without-blanks")[:20] not in data


def test_arguments_of_a_call_are_no_state():
    arguments = {"signature": "abcdef", "data": "x"}
    sent = {"tool_calls": [{"index": 0, "function": {"name": "check", "arguments": arguments}}]}
    _, data = ask(keyed(answered(sent, is_stream=True)), call(chat()))
    assert first_message(data, is_stream=True) == sent


def reasoning(value: str) -> dict:
    return {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": value}


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("how", ["drop", "pass", "block"])
def test_coding_agents_keep_their_encrypted_reasoning_without_a_store(is_stream, how):
    items = [reasoning("gAAAAABo" + SIGNATURE), message("Take flour.")]
    if is_stream:
        bodies = [
            {"type": "response.output_item.done", "output_index": i, "item": item} for i, item in enumerate(items)
        ]
        done = {"type": "response.completed", "response": response("completed", items)}
        script = Script(b"".join(map(event, [*bodies, done])))
    else:
        script = Script(json.dumps(response("completed", items)).encode(), content_type="application/json")
    guard, settings = CountingGuard(), {"release": {"unjudged_output": how}}
    asked = request(stream=is_stream, store=False, include=["reasoning.encrypted_content"])
    _, data = ask(keyed(script, guard=guard, **settings), call(asked, format="responses"))
    got = [body["item"] for body in events_in(data) if "item" in body] if is_stream else json.loads(data)["output"]
    assert guard.num_chars == len("Take flour.")
    if is_stream:
        assert events_in(data)[-1]["response"]["output"] == got
    again = Script(json.dumps(response("completed")).encode(), content_type="application/json")
    user = {"type": "message", "role": "user", "content": "And then?"}
    ask(
        keyed(again, **settings), call(request(stream=False, store=False, input=[user, *got, user]), format="responses")
    )
    assert json.loads(again.requests[0].content)["input"] == [user, *items, user]


def test_reasoning_of_others_leaves_no_husk_in_a_request():
    user = {"type": "message", "role": "user", "content": "And then?"}
    script = Script(json.dumps(response("completed")).encode(), content_type="application/json")
    told = {**reasoning(SIGNATURE), "id": "rs_2", "summary": [{"type": "summary_text", "text": "Hm."}]}
    ask(keyed(script), call(request(stream=False, input=[user, reasoning(SIGNATURE), told, user]), format="responses"))
    del told["encrypted_content"]
    assert json.loads(script.requests[0].content)["input"] == [user, told, user]


@pytest.mark.parametrize("key", ["", "short"])
def test_a_key_that_is_no_key_is_an_error_at_the_start(monkeypatch, key):
    monkeypatch.setenv("STATE_KEY", key)
    with pytest.raises(ConfigError, match=r"STATE_KEY.*32 characters"):
        keyed(Script())


def test_without_a_key_seals_are_good_in_one_process():
    script = answered(MESSAGES["at its top"]("abc"), is_stream=True)

    async def talk(gate, value: str | None) -> str:
        messages = [
            {"role": "user", "content": "hello"},
            MESSAGES["at its top"](value),
            {"role": "user", "content": "a"},
        ]
        async with gate.answer(call({**chat(), "messages": messages})) as answer:
            data = b"".join([part async for part in answer.events])
        return first_message(data, is_stream=True)["encrypted_content"]

    async def talk_twice() -> None:
        gate = gateway(script)
        value = await talk(gate, None)
        await talk(gate, value)
        await talk(gateway(script), value)

    asyncio.run(talk_twice())
    sent = [json.loads(each.content)["messages"][1].get("encrypted_content") for each in script.requests]
    assert sent == [None, "abc", None]
