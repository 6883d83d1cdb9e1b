"""The same promise before upstreams that send what no description of the formats has."""

import json

import pytest

from tests.gateway.scripted import (
    DONE,
    Script,
    ScriptedGuard,
    ask,
    ask_in_two,
    call,
    chat,
    delta,
    document,
    event,
    events_in,
    gateway,
    reasons_in,
    texts_in,
)
from tests.gateway.test_release_responses import AT, message, request, response, stream

ODD = {
    "no delta": {"index": 0},
    "delta is null": {"index": 0, "delta": None},
    "delta is text": {"index": 0, "delta": "##"},
    "delta is a list": {"index": 0, "delta": ["##"]},
    "delta is a number": {"index": 0, "delta": 5},
    "content is a number": {"index": 0, "delta": {"content": 5}},
    "content is a list of texts": {"index": 0, "delta": {"content": ["a", "##"]}},
    "content is cut over a list": {"index": 0, "delta": {"content": ["#", "#"]}},
    "content is cut over parts": {"index": 0, "delta": {"content": [{"text": "#"}, {"text": "#"}]}},
    "content is deep": {"index": 0, "delta": {"content": [[[[{"a": [["##"]]}]]]]}},
    "tool calls are text": {"index": 0, "delta": {"tool_calls": "##"}},
    "a tool call is text": {"index": 0, "delta": {"tool_calls": ["##"]}},
    "a function is text": {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": "##"}]}},
    "an index is text": {"index": 0, "delta": {"tool_calls": [{"index": "##"}]}},
    "a function call is text": {"index": 0, "delta": {"function_call": "##"}},
    "audio is text": {"index": 0, "delta": {"audio": "##"}},
    "a transcript is a list": {"index": 0, "delta": {"audio": {"transcript": ["##"]}}},
    "a refusal is an object": {"index": 0, "delta": {"refusal": {"why": "##"}}},
    "log probabilities are text": {"index": 0, "delta": {"content": "a"}, "logprobs": "##"},
    "log probabilities without text": {"index": 0, "delta": {}, "logprobs": {"content": [{"token": "##"}]}},
    "a message beside it": {"index": 0, "delta": {"content": "a"}, "message": {"content": "##"}},
    "text beside it": {"index": 0, "delta": {"content": "a"}, "text": "##"},
    "a reason that is none": {"index": 0, "delta": {}, "finish_reason": "##"},
    "a reason that is an object": {"index": 0, "delta": {}, "finish_reason": {"why": "##"}},
    "a filter that talks": {"index": 0, "delta": {}, "content_filter_results": {"hate": {"severity": "##"}}},
    "half a character": {"index": 0, "delta": {"content": "\ud83d", "x": "\ud83d", "role": "\udc00"}},
    "a number without end": {"index": 0, "delta": {"x": 10**400, "content": "a"}},
    "numbers between other things": {"index": 0, "delta": {"x": [351, None, 351], "content": [352, "a", True]}},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_deltas_are_judged_and_the_stream_goes_on(name):
    body = event({"choices": [ODD[name]]}) * 2
    _, data = ask(gateway(Script(body + delta(content="b") + delta(reason="stop") + DONE)), call(chat()))
    assert b"##" not in data
    assert b"35" not in data
    assert "##" not in "".join(texts_in(data).values())
    assert reasons_in(data)[0] in ("stop", "content_filter")
    assert data.endswith(DONE)


@pytest.mark.parametrize("index", [-1, 1, 10**30, True, "0", 0.0])
def test_a_choice_that_was_not_asked_for_is_an_error(index):
    body = event({"choices": [{"index": index, "delta": {"content": "hi"}}]})
    _, data = ask(gateway(Script(delta(content="a") + body + DONE)), call(chat()))
    assert texts_in(data) == {(0, "content"): "a"}
    assert "error" in events_in(data)[-1]


def test_choices_of_the_same_index_in_one_event_are_one_text():
    pieces = [{"index": 0, "delta": {"content": "#"}, "finish_reason": None} for _ in range(2)]
    _, data = ask(gateway(Script(event({"choices": pieces}) + delta(reason="stop") + DONE)), call(chat()))
    assert texts_in(data) == {}
    assert reasons_in(data) == {0: "content_filter"}


def test_a_reason_that_is_empty_holds_nothing_back():
    script = Script(delta(content="one", reason=""), delta(content=" two", reason=""), delta(reason="stop"), DONE)
    early, late = ask_in_two(gateway(script), script, call(chat()), at=1)
    assert texts_in(early) == {(0, "content"): "one"}
    assert texts_in(late) == {(0, "content"): " two"}
    assert reasons_in(late) == {0: "stop"}


SPOKEN_NAMES = {
    "arguments": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": {"kill__all": 1}}}]},
    "deep in arguments": {"tool_calls": [{"index": 0, "function": {"arguments": {"a": [{"b": {"kill__all": 1}}]}}}]},
    "a function's arguments": {"function_call": {"arguments": {"kill__all": 1}}},
    "content": {"content": {"kill__all": "x"}},
    "parts": {"content": [{"type": "text", "text": "x", "kill__all": True}]},
    "reasoning": {"reasoning": {"kill__all": None}},
}


@pytest.mark.parametrize("name", SPOKEN_NAMES)
@pytest.mark.parametrize("is_stream", [True, False])
def test_names_are_judged_where_text_stands(name, is_stream):
    guard = ScriptedGuard(mark=b"_")
    choice = {"index": 0, "delta" if is_stream else "message": SPOKEN_NAMES[name], "finish_reason": "stop"}
    body = {"choices": [choice]}
    script = Script(event(body) + DONE) if is_stream else Script(json.dumps(body).encode(), content_type="text/json")
    _, data = ask(gateway(script, guard=guard), call(chat(stream=is_stream)))
    assert b"kill__all" not in data
    assert b"content_filter" in data


def test_arguments_that_are_an_object_arrive_as_they_were_sent():
    arguments = {"city": "Rome", "days": [{"day": "Monday", "is_fine": True}]}
    sent = {"tool_calls": [{"index": 0, "function": {"name": "weather", "arguments": arguments}}]}
    _, data = ask(gateway(Script(delta(**sent) + delta(reason="tool_calls") + DONE)), call(chat()))
    assert events_in(data)[0]["choices"][0]["delta"] == sent
    assert reasons_in(data) == {0: "tool_calls"}


@pytest.mark.parametrize("text", [None, {"a__b": 1}, ["a__b"], 5])
def test_names_are_judged_in_events_of_responses_too(text):
    sent = {"type": "response.function_call_arguments.delta", **AT, "delta": text}
    script = Script(event({"type": "response.created", "response": response("in_progress")}) + event(sent))
    _, data = ask(gateway(script, guard=ScriptedGuard(mark=b"_")), call(request(), format="responses"))
    assert b"__" not in data
    assert b"resp_1" in data


@pytest.mark.parametrize("fields", [{}, {"delta": None}, {"delta": 5}, {"delta": {"x": "y"}}])
def test_a_delta_without_text_is_none(fields):
    odd = {"type": "response.output_text.delta", **AT, **fields}
    data, _ = stream([odd, {**odd, "delta": "one"}, {**odd, "delta": " ## two"}])
    last = events_in(data)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["output"][0]["content"][0]["text"] == "one "


def test_parts_of_a_message_are_read_as_clients_join_them():
    parts = [{"type": "response.output_text.delta", **AT, "content_index": index, "delta": "#"} for index in (0, 1)]
    data, _ = stream(parts)
    assert [body["type"] for body in events_in(data)][-1] == "response.incomplete"
    assert [body["delta"] for body in events_in(data) if "delta" in body] == []
    whole = message("#")
    whole["content"] *= 2
    script = Script(json.dumps(response("completed", [whole])).encode(), content_type="application/json")
    _, data = ask(gateway(script), call(request(stream=False), format="responses"))
    assert json.loads(data)["status"] == "incomplete"


def test_lines_that_are_no_data_are_not_passed_on():
    body = b"\xef\xbb\xbfevent: ##\nid: ##\nretry: ##\n##: ##\n##\n" + delta(content="a")
    split = b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "b##"}}]}\n\n'
    _, data = ask(gateway(Script(body + split + delta(reason="stop") + DONE)), call(chat()))
    assert b"##" not in data
    assert texts_in(data) == {(0, "content"): "ab"}


@pytest.mark.parametrize("name", ["usage", "error", "system_fingerprint", "x"])
@pytest.mark.parametrize("value", ["##", {"note": "##"}, [["##"]], {"##": "a"}])
def test_text_beside_the_choices_leaves_in_no_answer(name, value):
    for script, is_stream in (
        (document("hi", **{name: value}), False),
        (Script(delta(content="hi"), event({"choices": [], name: value}), delta(reason="stop"), DONE), True),
    ):
        _, data = ask(gateway(script), call(chat(stream=is_stream)))
        assert b"##" not in data
        assert json.loads(data) if not is_stream else data.endswith(DONE)


@pytest.mark.parametrize("text", ["[" * 9999, '{"choices": [}', "[1, 2]", '"text"', "7"])
def test_what_is_no_object_ends_the_stream(text):
    _, data = ask(gateway(Script(delta(content="hi") + f"data: {text}\n\n".encode() + DONE)), call(chat()))
    assert texts_in(data) == {(0, "content"): "hi"}
    assert "error" in events_in(data)[-1]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_choice_is_judged_with_the_beginning_that_the_client_gave(index):
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "so #"}]
    body = delta(index, content="# b") + b"".join(delta(each, reason="stop") for each in range(3))
    _, data = ask(gateway(Script(body + DONE)), call({**chat(n=3), "messages": messages}))
    assert texts_in(data) == {}
    assert reasons_in(data)[index] == "content_filter"
