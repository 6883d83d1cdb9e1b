"""What upstreams say is wrong reaches the client as an error, in whatever shape it comes."""

import asyncio
import json

import pytest

from streamward.gateway.call_record import EndReason
from streamward.gateway.config import GatewayLimits
from streamward.schema import Action
from tests.gateway.scripted import (
    CONTENT,
    DONE,
    Notebook,
    Script,
    ScriptedGuard,
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
from tests.gateway.test_release_responses import AT, response

SAID = delta(content="Bread ")


def raw(body: object) -> bytes:
    return json.dumps(body).encode()


def failing(choice: dict) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": ""}, **choice}]})


IN_BAND = {
    "under error": (event({"error": {"message": "no room", "code": 502}}), "no room", 502),
    "a string": (event({"error": "no room"}), "no room", "upstream_failed"),
    "beside choices": (event({"error": {"message": "no room"}, "choices": [{"delta": {}}]}), "no room", None),
    "object error": (event({"object": "error", "message": "no room", "type": "Bad", "code": 400}), "no room", 400),
    "type error": (event({"type": "error", "error": {"type": "overloaded", "message": "no room"}}), "no room", None),
    "a field": (b'error: {"code":400,"message":"no room","type":"invalid_request_error"}\n\n', "no room", 400),
    "a field of words": (b"error: no room\n\n", "no room", None),
    "an event": (b'event: error\ndata: {"message":"no room","code":429}\n\n', "no room", 429),
    "an event of words": (b"event: error\ndata: no room\n\n", "no room", None),
    "an event without words": (b"event: error\ndata: 5\n\n", "The upstream reported an error.", None),
    "detail": (event({"detail": "no room"}), "no room", None),
    "details": (event({"detail": [{"loc": ["body", "n"], "msg": "no room", "type": "x"}]}), "n: no room", None),
    "message and code": (event({"message": "no room", "code": "E7"}), "no room", "E7"),
    "message and status": (event({"statusCode": 429, "message": "no room"}), "no room", 429),
    "message alone": (event({"message": "no room", "request_id": "abc"}), "no room", None),
    "errors": (event({"success": False, "errors": [{"code": 7, "message": "no room"}]}), "no room", 7),
    "a vendor's object": (event({"x_groq": {"error": "no room"}, "choices": [{"delta": {}}]}), "no room", None),
    "a list": (event([{"error": {"code": 503, "message": "no room", "status": "UNAVAILABLE"}}]), "no room", 503),
    "a fault": (event({"fault": {"faultstring": "no room", "detail": {"errorcode": "E7"}}}), "no room", "E7"),
    "not ok": (event({"ok": False, "reason": "no room"}), "no room", None),
    "an exception": (event({"exception": "no room"}), "no room", None),
    "under data": (event({"data": {"error": {"message": "no room"}}}), "no room", None),
    "JSON in a string": (event({"error": raw({"message": "no room", "code": "E7"}).decode()}), "no room", "E7"),
    "raw JSON": (raw({"error": {"message": "no room"}}) + b"\n", "no room", None),
    "raw JSON without end": (raw({"error": {"message": "no room"}}), "no room", None),
    "raw JSON over lines": (json.dumps({"error": {"message": "no room"}}, indent=1).encode(), "no room", None),
    "a raw list": (raw([{"error": {"message": "no room"}}]) + b"\n\n", "no room", None),
    "raw detail": (raw({"detail": "no room"}) + b"\n\n", "no room", None),
    "a choice": (failing({"finish_reason": "error", "error": {"code": 504, "message": "no room"}}), "no room", 504),
    "a choice without words": (failing({"finish_reason": "error"}), "The upstream reported an error.", None),
    "a reason": (failing({"finish_reason": "abort"}), "The upstream reported an error.", "abort"),
    "a reason with words": (failing({"finish_reason": {"type": "abort", "message": "no room"}}), "no room", None),
    "a status in the base": (
        event({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "no room"}}), "no room", 1004,
    ),
}  # fmt: skip


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("name", IN_BAND)
def test_errors_within_a_stream_are_errors_for_everybody(name, begins):
    error, message, code = IN_BAND[name]
    notebook = Notebook()
    script = Script(SAID if begins else b": ping\n\n", error, DONE if error.endswith(b"\n") else b"")
    _, data = ask(gateway(script, observer=notebook), call(chat()))
    assert texts_in(data).get(CONTENT) == ("Bread " if begins else None)
    told = events_in(data)[-1]["error"]
    assert (told["message"], told["code"]) == (message, code or "upstream_failed")
    assert reasons_in(data) == {}
    assert data.endswith(DONE)
    assert (notebook.outcomes[0].ending, notebook.outcomes[0].error) == (EndReason.UPSTREAM_FAILED, "upstream_failed")


NO_ERRORS = [
    {"type": "ping"},
    {"type": "status", "message": "still searching"},
    {"usage": {"total_tokens": 3}},
    {"choices": [], "message": "processing", "object": "chat.completion.chunk"},
    {"choices": [{"index": 0, "delta": {"content": "x"}}], "error": None, "detail": "fine"},
    {"choices": [{"index": 0, "delta": {"content": "x"}}], "error": {"message": "", "code": None}},
    {"choices": [{"index": 0, "delta": {"content": "x"}, "error": {}}], "base_resp": {"status_code": 0}},
    {"code": 0, "message": "success"},
    *[
        {"choices": [{"index": 0, "delta": {"content": "x"}}], "base_resp": {"status_code": code}}
        for code in ({}, [], {"a": 1}, [1], None)
    ],
]  # fmt: skip


@pytest.mark.parametrize("body", NO_ERRORS, ids=range(len(NO_ERRORS)))
def test_what_is_no_error_does_not_end_a_stream(body):
    notebook = Notebook()
    _, data = ask(gateway(Script(SAID + event(body) + delta(reason="stop") + DONE), observer=notebook), call(chat()))
    assert reasons_in(data) == {0: "stop"}
    assert notebook.outcomes[0].ending is EndReason.COMPLETE


def test_an_error_behind_the_last_word_is_the_one_end():
    notebook = Notebook()
    script = Script(SAID + delta(reason="stop") + event({"error": {"message": "no room"}}) + DONE)
    _, data = ask(gateway(script, observer=notebook), call(chat()))
    assert texts_in(data) == {CONTENT: "Bread "}
    assert reasons_in(data) == {}
    assert events_in(data)[-1]["error"]["message"] == "no room"
    assert notebook.outcomes[0].ending is EndReason.UPSTREAM_FAILED


@pytest.mark.parametrize(
    "script", [DONE, b": ping\n\n" + DONE, delta(role="assistant", content="") + DONE, b"data: null\n\n" + DONE]
)
def test_an_answer_that_says_nothing_at_all_is_an_error(script):
    notebook = Notebook()
    _, data = ask(gateway(Script(script), observer=notebook), call(chat()))
    assert events_in(data)[-1]["error"]["code"] == "upstream_failed"
    assert notebook.outcomes[0].ending is EndReason.UPSTREAM_FAILED


def test_text_without_a_reason_is_kept_for_servers_that_never_give_one():
    notebook = Notebook()
    _, data = ask(gateway(Script(SAID + DONE), observer=notebook), call(chat()))
    assert texts_in(data) == {CONTENT: "Bread "}
    assert "error" not in events_in(data)[-1]
    assert notebook.outcomes[0].ending is EndReason.COMPLETE


@pytest.mark.parametrize("is_stream", [True, False])
def test_the_sentence_of_an_error_leaves_only_if_the_guard_lets_it(is_stream):
    error = {"error": {"message": "you said ## there", "code": "E7"}}
    script = Script(SAID + event(error) + DONE) if is_stream else Script(raw(error), content_type="application/json")
    notebook = Notebook()
    _, data = ask(gateway(script, observer=notebook), call(chat(stream=is_stream)))
    told = (events_in(data)[-1] if is_stream else json.loads(data))["error"]
    assert (told["message"], told["code"]) == ("The upstream reported an error.", "E7")
    (outcome,) = notebook.outcomes
    assert (outcome.ending, outcome.decision.action) == (EndReason.UPSTREAM_FAILED, Action.ALLOW)
    said, sentence = outcome.parts
    assert (said.text, said.decision.action) == ("Bread " if is_stream else "", Action.ALLOW)
    assert said.num_shown_chars == len(said.text)
    assert (sentence.name, sentence.text) == ("error", "you said ## there")
    assert sentence.decision.action is Action.BLOCK


KINDS = {
    "stream": ("chat/completions", True),
    "document": ("chat/completions", False),
    "numbers": ("embeddings", False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_not_told_as_a_client_that_has_gone(monkeypatch, kind):
    def fail(body: object) -> None:
        raise TypeError("unhashable type")

    monkeypatch.setattr("streamward.gateway.stream_decoder.find_report", fail)
    wire, is_stream = KINDS[kind]
    script = Script(SAID, DONE) if is_stream else Script(raw({"a": 1}), content_type="application/json")
    body = {"model": "m", "input": "hello"} if wire == "embeddings" else chat(stream=is_stream)
    notebook = Notebook()
    with pytest.raises(TypeError):
        ask(gateway(script, observer=notebook), call(body, format=wire))
    (outcome,) = notebook.outcomes
    assert (outcome.ending, outcome.status, outcome.error) == (
        EndReason.INTERNAL,
        200 if is_stream else 500,
        "internal",
    )


def test_the_sentence_of_an_error_does_not_leave_where_the_guard_fails():
    guard = ScriptedGuard(opens=1)
    guard.opening_error = RuntimeError("broken")
    _, data = ask(gateway(Script(SAID + event({"error": "no room"}) + DONE), guard=guard), call(chat()))
    assert b"no room" not in data
    assert events_in(data)[-1]["error"]["message"] == "The upstream reported an error."


UNNAMED = ["two words", "##", "a" * 65, "", None, {"a": "b"}, "a\nb", -0.5, True, 10**12]


@pytest.mark.parametrize("value", UNNAMED, ids=range(len(UNNAMED)))
def test_what_is_no_name_does_not_pass_as_a_code(value):
    body = {"error": {"message": "no room", "type": value, "code": value, "param": value}}
    for status, sent in ((400, raw(body)), (200, raw(body))):
        answer, data = ask(gateway(Script(sent, status=status, content_type="application/json")), call(chat()))
        told = json.loads(data)["error"]
        assert answer.status == (400 if status == 400 else 502)
        assert (told["code"], told["param"]) == ("upstream_failed", "a" * 65 if value == "a" * 65 else None)
        assert told["type"] in ("invalid_request_error", "upstream_error")


BODIES = {
    "sglang": (400, {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400},
               ("too long", "BadRequestError", None, 400)),
    "openai": (400, {"error": {"message": "too long", "type": "invalid_request_error", "param": "messages",
                               "code": "context_length_exceeded"}},
               ("too long", "invalid_request_error", "messages", "context_length_exceeded")),
    "azure": (400, {"error": {"message": "filtered", "type": None, "param": "prompt", "code": "content_filter",
                              "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
              ("filtered", "invalid_request_error", "prompt", "content_filter")),
    "fastapi": (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options", "x"], "msg": "not so"},
                                 {"type": "missing", "loc": ["body", "messages", 0], "msg": "nor so"}]},
                ("stream_options.x: not so; messages.0: nor so", "extra_forbidden", "stream_options.x",
                 "upstream_failed")),
    "fastapi's words": (404, {"detail": "no such model"},
                        ("no such model", "invalid_request_error", None, "upstream_not_found")),
    "fastapi's object": (400, {"detail": {"error": {"message": "too long", "code": "E1"}}},
                         ("too long", "invalid_request_error", None, "E1")),
    "gemini": (400, [{"error": {"code": 400, "message": "missing", "status": "INVALID_ARGUMENT"}}],
               ("missing", "INVALID_ARGUMENT", None, 400)),
    "apim": (429, {"statusCode": 429, "message": "try later"}, ("try later", "upstream_error", None, 429)),
    "quota": (429, {"error": {"message": "quota", "type": "insufficient_quota", "param": None,
                              "code": "insufficient_quota"}},
              ("quota", "insufficient_quota", None, "insufficient_quota")),
    "ollama": (404, {"error": "no such model"}, ("no such model", "invalid_request_error", None, "upstream_not_found")),
    "a name and words": (400, {"error": "invalid_grant", "error_description": "too old"},
                         ("too old", "invalid_request_error", None, "invalid_grant")),
    "a problem": (400, {"type": "about:blank", "title": "Bad", "status": 400, "detail": "too long"},
                  ("too long", "invalid_request_error", None, 400)),
    "indexed": (400, {"error": {"message": "x", "param": "messages[0].content"}},
                ("x", "invalid_request_error", "messages[0].content", "upstream_failed")),
    "down": (500, {"error": {"message": "worker 3 failed", "type": "server_error"}},
             ("worker 3 failed", "server_error", None, "upstream_failed")),
    "loading": (503, {"error": {"message": "loading", "type": "unavailable_error", "code": 503}},
                ("loading", "unavailable_error", None, 503)),
    "our key": (401, {"error": {"message": "key sk-1 is wrong", "code": "invalid_api_key"}},
                ("The upstream answered with status 401.", "upstream_error", None, "upstream_failed")),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_what_an_upstream_says_is_wrong_reaches_the_client(name):
    status, body, expected = BODIES[name]
    answer, data = ask(gateway(Script(raw(body), status=status, content_type="application/json")), call(chat()))
    told = json.loads(data)["error"]
    assert answer.status == (502 if status in (401, 500) else status)
    assert (told["message"], told["type"], told["param"], told["code"]) == expected


FRAMED = {
    "events": ("text/event-stream", b"data: " + raw({"error": {"message": "too long", "code": "E7"}}) + b"\n\n"),
    "lines": ("application/json", raw({"error": {"message": "too long", "code": "E7"}}) + b"\n{}\n"),
    "a list of words": ("application/json", raw(["too long"])),
    "words called JSON": ("application/json", b"too long\n"),
}


@pytest.mark.parametrize("name", FRAMED)
def test_the_body_of_an_error_is_read_whatever_it_is_framed_as(name):
    content_type, body = FRAMED[name]
    answer, data = ask(gateway(Script(body, status=400, content_type=content_type)), call(chat()))
    assert (answer.status, json.loads(data)["error"]["message"]) == (400, "too long")


def test_an_error_without_content_beside_an_answer_is_left_out():
    data = ask(
        gateway(
            Script(
                event(
                    {
                        "error": {"code": None, "message": None},
                        "choices": [{"index": 0, "delta": {"content": "Bread "}, "finish_reason": "stop"}],
                    }
                ),
                DONE,
            )
        ),
        call(chat()),
    )[1]
    assert texts_in(data)[CONTENT] == "Bread "
    assert b'"error"' not in data


@pytest.mark.parametrize(("content_type", "is_told"), [("text/plain", True), ("text/html", False)])
def test_an_error_in_plain_text_is_told(content_type, is_told):
    script = Script(b"there is no room\n", status=503, content_type=content_type)
    answer, data = ask(gateway(script), call(chat()))
    assert answer.status == 503
    assert (json.loads(data)["error"]["message"] == "there is no room") is is_told


def test_a_streamed_error_answers_a_request_that_was_not_to_be_streamed():
    script = Script(b": hello\n\n", event({"error": {"message": "no room", "code": 429}}), delta(content="x"))
    answer, data = ask(gateway(script), call(chat(stream=False)))
    assert (answer.status, json.loads(data)["error"]["message"]) == (429, "no room")


WITH_KEY = {
    "in the sentence": {"message": "header Authorization: Bearer sk-ours-0123456789", "code": "E7"},
    "in the code": {"message": "no", "code": "sk-ours-0123456789"},
    "in the type": {"message": "no", "type": "key.sk-ours-0123456789"},
    "in the parameter": {"message": "no", "param": "sk-ours-0123456789"},
    "where it is cut": {"message": "x" * 988 + " sk-ours-0123456789", "code": "E7"},
    "elsewhere": {"message": "no", "code": "E7", "request": [{"headers": ["Bearer sk-ours-0123456789"]}]},
}


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("name", WITH_KEY)
def test_of_an_error_with_our_key_in_it_only_the_status_is_told(monkeypatch, name, is_stream):
    monkeypatch.setenv("UP_KEY", "sk-ours-0123456789")
    error = {"error": WITH_KEY[name]}
    script = Script(SAID + event(error)) if is_stream else Script(raw(error), status=400)
    answer, data = ask(gateway(script, api_key_env="UP_KEY"), call(chat(stream=is_stream)))
    assert answer.status == (200 if is_stream else 400)
    assert b"sk-ours" not in data
    assert b'"E7"' not in data
    assert b'"code":"upstream_failed"' in data


def test_of_an_error_in_plain_text_our_key_is_not_told(monkeypatch):
    monkeypatch.setenv("UP_KEY", "sk-ours-0123456789")
    script = Script(b"x" * 990 + b" sk-ours-0123456789", status=503, content_type="text/plain")
    _, data = ask(gateway(script, api_key_env="UP_KEY"), call(chat()))
    assert b"sk-ours" not in data


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(("code", "status"), [(503, 503), (429, 429), ("E7", 502), (400, 400), (401, 502)])
def test_an_error_with_status_200_gets_the_status_it_states(is_stream, code, status):
    script = Script(raw({"error": {"message": "no room", "code": code}}), content_type="application/json")
    script_headers = Script(
        raw({"error": {"message": "no room", "code": code}}),
        content_type="application/json",
        headers={"retry-after": "7", "retry-after-ms": "6500", "x-should-retry": "true"},
    )
    answer, data = ask(gateway(script), call(chat(stream=is_stream)))
    assert answer.status == status
    assert ("no room" in json.loads(data)["error"]["message"]) is (code != 401)
    answer, _ = ask(gateway(script_headers), call(chat(stream=is_stream)))
    expected = {"Retry-After": "7", "Retry-After-Ms": "6500", "X-Should-Retry": "true"}
    assert dict(answer.headers) == (expected if status in (429, 503) else {})


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": None}, [], None, "x", {"id": "c", "object": "chat.completion"}]
)
def test_a_document_without_choices_is_an_error(body):
    answer, data = ask(gateway(Script(raw(body), content_type="application/json")), call(chat(stream=False)))
    assert answer.status == 502
    assert json.loads(data)["error"]["code"] == "upstream_failed"


RESPONSES = {
    "error": {"type": "error", "code": "rate_limit_exceeded", "message": "no room", "param": None},
    "failed": {
        "type": "response.failed",
        "response": {**response("failed"), "error": {"code": "server_error", "message": "no room"}},
    },
    "vllm": {"error": {"message": "no room", "code": "E7"}},
}


@pytest.mark.parametrize("name", RESPONSES)
def test_errors_in_responses_are_told_as_responses_tell_them(name):
    begun = {"type": "response.created", "response": response("in_progress")}
    said = {"type": "response.output_text.delta", **AT, "delta": "Bread"}
    script, notebook = Script(event(begun) + event(said) + event(RESPONSES[name])), Notebook()
    asked = {"model": "m", "input": "hello", "stream": True}
    _, data = ask(gateway(script, observer=notebook), call(asked, format="responses"))
    error, failed = events_in(data)[-2:]
    assert (error["type"], error["message"]) == ("error", "no room")
    assert error["code"] in ("rate_limit_exceeded", "server_error", "E7")
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": error["code"], "message": "no room"}
    assert notebook.outcomes[0].ending is EndReason.UPSTREAM_FAILED


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", ""])
def test_a_stream_that_does_not_say_it_is_one_is_read(content_type):
    script = Script(SAID + delta(reason="stop") + DONE, content_type=content_type)
    answer, data = ask(gateway(script), call(chat()))
    assert answer.status == 200
    assert texts_in(data) == {CONTENT: "Bread "}


def test_a_silent_answer_gives_signs_of_life():
    async def read() -> list[bytes]:
        script = Script(SAID, delta(reason="stop") + DONE)
        script.gate, script.gate_at = asyncio.Event(), 1
        gate = gateway(script, limits=GatewayLimits(keep_alive_s=0.01))
        parts = []
        async with gate.answer(call(chat())) as answer:
            assert answer.events is not None
            async for part in answer.events:
                parts.append(part)
                if parts.count(b": keep-alive\n\n") == 3:
                    script.gate.set()
        await gate.aclose()
        return parts

    parts = asyncio.run(read())
    assert texts_in(parts[0]) == {CONTENT: "Bread "}
    assert parts[1:4] == [b": keep-alive\n\n"] * 3
    assert parts[-1].endswith(DONE)
