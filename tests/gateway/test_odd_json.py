"""JSON that servers really send, and that strict readers would not take."""

import json

import pytest

from streamward.gateway.call_record import EndReason
from tests.gateway.scripted import (
    BAD_PROMPT,
    CONTENT,
    DONE,
    Notebook,
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

END = delta(reason="stop") + DONE
ENTRY = b'{"token":"hi","logprob":%s,"bytes":null,"top_logprobs":[{"token":"hi","logprob":%s,"bytes":null}]}'
NUMBERS = [b"-Infinity", b"Infinity", b"NaN", b"null", b"-1e999"]

SURVIVES = {
    "data is null": b"data: null\n\n",
    "no data": b"data:\n\n",
    "blank data": b"data:   \n\n",
    "an empty object": b"data: {}\n\n",
    "choices are null": b'data: {"id": "c", "choices": null}\n\n',
    "a byte order mark": b"\xef\xbb\xbf: hello\n\n",
    "other line ends": b": a\r\n\r\ndata: null\r\rdata: null\r\n\r\n",
    "other fields": b"id: 7\nretry: 3\nevent: ping\ndata: {}\n\n",
    "the number is null": b'data: {"choices": [{"index": null, "delta": {}, "finish_reason": null}]}\n\n',
    "the number is missing": b'data: {"choices": [{"delta": {}, "finish_reason": ""}]}\n\n',
    "a number that is none": b'data: {"choices": [], "usage": {"seconds": NaN, "left": Infinity}}\n\n',
}


@pytest.mark.parametrize("name", SURVIVES)
def test_an_odd_event_does_not_end_a_stream(name):
    notebook = Notebook()
    script = Script(SURVIVES[name] + delta(content="hi") + SURVIVES[name] + END)
    _, data = ask(gateway(script, observer=notebook), call(chat()))
    assert texts_in(data) == {CONTENT: "hi"}
    assert reasons_in(data) == {0: "stop"}
    assert b"NaN" not in data
    assert b"Infinity" not in data
    assert notebook.outcomes[0].ending is EndReason.COMPLETE


@pytest.mark.parametrize("index", [{}, {"index": None}])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_choice_without_a_number_gets_one(index, is_stream):
    choice = {**index, "delta" if is_stream else "message": {"content": "hi"}, "finish_reason": "stop"}
    body = {"choices": [choice]}
    script = Script(event(body), DONE) if is_stream else Script(json.dumps(body).encode(), content_type="text/json")
    _, data = ask(gateway(script), call(chat(stream=is_stream)))
    found = events_in(data)[0] if is_stream else json.loads(data)
    assert [each["index"] for each in found["choices"]] == [0]


def test_choices_of_a_document_without_numbers_stand_in_their_places():
    choices = [{"index": None, "message": {"content": text}, "finish_reason": "stop"} for text in "ab"]
    script = Script(json.dumps({"choices": choices}).encode(), content_type="application/json")
    _, data = ask(gateway(script), call(chat(stream=False, n=2)))
    assert [(each["index"], each["message"]["content"]) for each in json.loads(data)["choices"]] == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("unjudged", ["drop", "pass"])
def test_log_probabilities_that_are_no_numbers_become_the_one_that_clients_know(number, unjudged):
    entry = ENTRY % (number, number)
    part = b'{"index":0,"delta":{"content":"hi"},"logprobs":{"content":[%s]},"finish_reason":null}' % entry
    script = Script(b'data: {"choices":[' + part + b"]}\n\n" + END)
    _, data = ask(gateway(script, release={"unjudged_output": unjudged}), call(chat(logprobs=True)))
    (found,) = events_in(data)[0]["choices"][0]["logprobs"]["content"]
    assert (found["token"], found["logprob"]) == ("hi", -9999.0)
    assert [other["logprob"] for other in found["top_logprobs"]] == [-9999.0]
    assert texts_in(data) == {CONTENT: "hi"}


def test_columns_of_log_probabilities_survive_too():
    columns = b'{"tokens":["h","i"],"token_logprobs":[null,-Infinity],"top_logprobs":[null,{"i":-Infinity}]}'
    body = b'{"choices":[{"index":0,"text":"hi","logprobs":' + columns + b',"finish_reason":"stop"}]}'
    asked = {"model": "m", "prompt": "hello"}
    script = Script(body, content_type="application/json")
    _, data = ask(gateway(script), call(asked, format="completions"))
    found = json.loads(data)["choices"][0]["logprobs"]
    assert found["token_logprobs"] == [None, -9999.0]
    assert found["top_logprobs"] == [None, {"i": -9999.0}]


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_clients_take_for_line_ends_leaves_escaped(is_stream):
    text = "one\u2028two\u2029three\x85four"
    body = {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]}
    script = (
        Script(delta(content=text) + END)
        if is_stream
        else Script(json.dumps(body, ensure_ascii=False).encode(), content_type="application/json")
    )
    _, data = ask(gateway(script), call(chat(stream=is_stream)))
    assert not {"\u2028", "\u2029", "\x85"} & set(data.decode())
    found = texts_in(data)[CONTENT] if is_stream else json.loads(data)["choices"][0]["message"]["content"]
    assert found == text


IDS = {
    "chat/completions": ({"messages": [{"role": "user", "content": BAD_PROMPT}]}, "chatcmpl-"),
    "completions": ({"prompt": BAD_PROMPT}, "cmpl-"),
    "responses": ({"input": BAD_PROMPT}, "resp_"),
}


@pytest.mark.parametrize("format", IDS)
@pytest.mark.parametrize("is_stream", [True, False])
def test_every_refusal_has_an_id_of_its_own(format, is_stream):
    said, prefix = IDS[format]
    seen: set[str] = set()
    for _ in range(3):
        gate = gateway(Script(END), prompt={"on_block": "refusal"})
        _, data = ask(gate, call({"model": "m", "stream": is_stream, **said}, format=format))
        bodies = events_in(data) if is_stream else [json.loads(data)]
        bodies = [body.get("response", body) for body in bodies if "id" in body.get("response", body)]
        (found,) = {body["id"] for body in bodies}
        assert all(body.get("created", body.get("created_at")) > 0 for body in bodies)
        items = {item["id"] for body in bodies for item in body.get("output", [])}
        assert found.startswith(prefix)
        assert all(item.startswith("msg_") for item in items)
        assert not seen & {found, *items}
        seen |= {found, *items}
    assert len(seen) == (6 if format == "responses" else 3)
