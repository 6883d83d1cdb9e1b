"""The same promise for `/v1/responses`, whose events repeat text that others have said."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.gateway.scripted import Script, ScriptedGuard, ask, call, event, events_in, gateway
from tests.gateway.test_release_chat import TEXTS, cut

AT = {"item_id": "i", "output_index": 0, "content_index": 0, "summary_index": 0}


def request(**fields) -> dict[str, object]:
    return {"model": "m", "input": "hello", "stream": True, **fields}


def response(status: str, output=(), **fields) -> dict[str, object]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": status,
        "output": list(output),
        **fields,
    }


def message(text: str, index: int = 0) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": f"msg_{index}", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def spoken(text: str, sizes: list[int]) -> list[dict]:
    """The events of an answer with one message, its text in pieces."""
    pieces = [part.decode("utf-16-le") for part in cut(text.encode("utf-16-le"), [size * 2 for size in sizes])]
    part = {"type": "output_text", "text": "", "annotations": []}
    return [
        {"type": "response.created", "response": response("in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": {**message(""), "content": []}},
        {"type": "response.content_part.added", **AT, "part": part},
        *[{"type": "response.output_text.delta", **AT, "delta": piece, "logprobs": []} for piece in pieces],
        {"type": "response.output_text.done", **AT, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **AT, "part": {**part, "text": text}},
        {"type": "response.output_item.done", "output_index": 0, "item": message(text)},
        {"type": "response.completed", "response": response("completed", [message(text)], usage={"total_tokens": 3})},
    ]


def stream(bodies, sizes=(50,)) -> tuple[bytes, ScriptedGuard]:
    guard = ScriptedGuard()
    numbered = [{**body, "sequence_number": number} for number, body in enumerate(bodies)]
    script = Script(*cut(b"".join(map(event, numbered)), list(sizes)))
    _, data = ask(gateway(script, guard=guard), call(request(), format="responses"))
    assert guard.num_open == 0
    assert script.is_closed
    return data, guard


def test_an_answer_that_is_clear_arrives_as_it_was_sent():
    sent = spoken("one # two 😀", [3])
    data, guard = stream(sent)
    assert events_in(data) == [{**body, "sequence_number": number} for number, body in enumerate(sent)]
    assert guard.num_opened == 1  # what is said again is not judged again


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_flagged_answer_ends_as_incomplete_with_the_text_that_was_shown(size):
    data, _ = stream(spoken("one # two ## three", [size]))
    bodies = events_in(data)
    shown = "".join(body["delta"] for body in bodies if body["type"] == "response.output_text.delta")
    last = bodies[-1]
    assert shown == "one # two "
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert last["response"]["output"][0]["content"][0]["text"] == "one # two "
    assert last["response"]["id"] == "resp_1"
    numbers = [body["sequence_number"] for body in bodies]
    assert numbers == sorted(set(numbers))


PLACES = {
    "refusal": lambda text: {"type": "response.refusal.delta", **AT, "delta": text},
    "reasoning": lambda text: {"type": "response.reasoning_text.delta", **AT, "delta": text},
    "summary": lambda text: {"type": "response.reasoning_summary_text.delta", **AT, "delta": text},
    "arguments": lambda text: {"type": "response.function_call_arguments.delta", **AT, "delta": text},
    "mcp": lambda text: {"type": "response.mcp_call_arguments.delta", **AT, "delta": text},
    "custom": lambda text: {"type": "response.custom_tool_call_input.delta", **AT, "delta": text},
    "code": lambda text: {"type": "response.code_interpreter_call_code.delta", **AT, "delta": text},
    "transcript": lambda text: {"type": "response.audio.transcript.delta", "delta": text},
    "shell": lambda text: {"type": "response.shell_call_command.delta", **AT, "command_index": 0, "delta": text},
    "shell output": lambda text: {"type": "response.shell_call_output_content.delta", **AT, "delta": {"stdout": text}},
    "unheard of": lambda text: {"type": "response.telepathy.delta", **AT, "thought": {"words": [text]}},
    "refusal done": lambda text: {"type": "response.refusal.done", **AT, "refusal": text},
    "text done": lambda text: {"type": "response.output_text.done", **AT, "text": text, "logprobs": []},
    "arguments done": lambda text: {"type": "response.function_call_arguments.done", **AT, "arguments": text},
    "part done": lambda text: {"type": "response.content_part.done", **AT, "part": message(text)["content"][0]},
    "summary part": lambda text: {
        "type": "response.reasoning_summary_part.done", **AT, "part": {"type": "summary_text", "text": text}
    },
    "item": lambda text: {"type": "response.output_item.done", "output_index": 0, "item": message(text)},
    "call": lambda text: {
        "type": "response.output_item.done", "output_index": 0,
        "item": {"type": "function_call", "id": "f", "call_id": "c", "name": text, "arguments": "{}"},
    },
    "odd item": lambda text: {
        "type": "response.output_item.done", "output_index": 0,
        "item": {"type": "web_search_call", "id": "w", "action": {"query": text, "sources": [{"url": text}]}},
    },
    "annotation": lambda text: {
        "type": "response.output_text.annotation.added", **AT, "annotation": {"type": "url_citation", "title": text}
    },
    "completed": lambda text: {"type": "response.completed", "response": response("completed", [message(text)])},
    "failed": lambda text: {
        "type": "response.failed", "response": response("failed", error={"code": "server_error", "message": text})
    },
    "instructions": lambda text: {
        "type": "response.in_progress", "response": response("in_progress", instructions=text)
    },
    "logprobs": lambda text: {
        "type": "response.output_text.delta", **AT, "delta": "a", "logprobs": [{"token": text, "logprob": 0.0}]
    },
    "obfuscation": lambda text: {"type": "response.output_text.delta", **AT, "delta": "a", "obfuscation": text},
    "error": lambda text: {"type": "error", "code": "x", "message": text},
    "type": lambda text: {"type": text},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PLACES))
def test_flagged_text_leaves_in_no_event(name):
    begin = {"type": "response.created", "response": response("in_progress")}
    data, _ = stream([begin, PLACES[name]("say ## now"), PLACES[name]("say ## now")])
    assert b"##" not in data
    assert b"resp_1" in data


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([("reasoning", "#"), ("completed", "##")], [1])
@example([("reasoning", "#"), ("logprobs", "x"), ("reasoning", "#")], [1])
@given(
    parts=st.lists(st.tuples(st.sampled_from(sorted(PLACES)), TEXTS), max_size=10),
    sizes=st.lists(st.integers(1, 80), min_size=1, max_size=3),
)
def test_nothing_flagged_leaves(parts, sizes):
    data, _ = stream([PLACES[name](text) for name, text in parts], sizes)
    assert b"##" not in data
    said: dict[tuple, str] = {}
    for body in events_in(data):
        if body["type"].endswith(".delta") and isinstance(body.get("delta"), str):
            key = (body["type"], body.get("output_index"))
            said[key] = said.get(key, "") + body["delta"]
    assert not any("##" in text for text in said.values())


def test_reasoning_and_answer_at_one_place_are_two_texts():
    sent = [PLACES[name](text) for name, text in [("reasoning", "#"), ("logprobs", "x"), ("reasoning", "#")]]
    data, _ = stream(sent, [1])
    assert [body["delta"] for body in events_in(data) if "delta" in body] == ["#", "a"]


def test_a_whole_that_says_more_than_its_pieces_is_judged_for_the_rest():
    sent = [
        {"type": "response.output_text.delta", **AT, "delta": "fine", "logprobs": []},
        {"type": "response.output_text.done", **AT, "text": "fine, but ##", "logprobs": []},
    ]
    data, _ = stream(sent)
    assert [body["type"] for body in events_in(data)] == ["response.output_text.delta", "response.incomplete"]


def test_the_clients_own_words_come_back_unjudged():
    echo = response("completed", [message("fine")], instructions="be ## kind", metadata={"a": "x ## y"})
    script = Script(json.dumps(echo).encode(), content_type="application/json")
    asked = request(stream=False, instructions="be ## kind", metadata={"a": "x ## y"})
    _, data = ask(gateway(script), call(asked, format="responses"))
    assert json.loads(data) == echo


def test_an_answer_that_is_not_streamed_is_cut_in_the_same_place():
    reasoning = {
        "id": "r",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "encrypted_content": "x",
    }
    body = response("completed", [reasoning, message("one ## two", 1)], usage={"total_tokens": 2})
    script = Script(json.dumps(body).encode(), content_type="application/json")
    _, data = ask(gateway(script), call(request(stream=False), format="responses"))
    found = json.loads(data)
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "content_filter"}
    assert [item["content"][0]["text"] for item in found["output"]] == ["one "]
