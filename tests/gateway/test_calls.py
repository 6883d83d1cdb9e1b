"""From request to end: prompts, upstreams that fail, clients that leave, and what is told of it."""

import asyncio
import gc
import gzip
import json

import httpx
import pytest

from streamward.errors import AuditError, ConfigError, InputError, OverloadedError
from streamward.gateway.call_record import EndReason
from streamward.gateway.config import GatewayLimits, UpstreamConfig
from streamward.gateway.upstream import Upstream
from streamward.policy import Policy
from tests.gateway.scripted import (
    BAD_PROMPT,
    CONTENT,
    DONE,
    STRICT,
    Notebook,
    Script,
    ScriptedGuard,
    ask,
    call,
    chat,
    delta,
    document_of,
    event,
    events_in,
    gateway,
    reasons_in,
    texts_in,
)


def fine(*, content_type="text/event-stream", **more) -> Script:
    if content_type == "application/json":
        return Script(document_of("hi"), content_type=content_type, **more)
    return Script(delta(content="hi"), delta(reason="stop"), DONE, **more)


@pytest.mark.parametrize("format", ["chat/completions", "completions", "responses"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_blocked_prompt_is_an_error_in_the_shape_clients_know(format, is_stream):
    text = {"chat/completions": "messages", "completions": "prompt", "responses": "input"}[format]
    said = [{"role": "user", "content": BAD_PROMPT}] if text == "messages" else BAD_PROMPT
    script, notebook = fine(), Notebook()
    asked = {"model": "m", text: said, "stream": is_stream}
    answer, data = ask(gateway(script, observer=notebook), call(asked, format=format))
    error = json.loads(data)["error"]
    assert answer.status == 400
    assert (error["code"], error["status"]) == ("content_filter", 400)
    assert error["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    assert error["innererror"]["content_filter_result"]["violence"] == {"filtered": True, "severity": "high"}
    assert notebook.outcomes[0].ending is EndReason.PROMPT_BLOCKED
    assert script.is_closed


@pytest.mark.parametrize("format", ["chat/completions", "completions", "responses"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_blocked_prompt_may_be_answered_with_a_refusal(format, is_stream):
    text = {"chat/completions": "messages", "completions": "prompt", "responses": "input"}[format]
    said = [{"role": "user", "content": BAD_PROMPT}] if text == "messages" else BAD_PROMPT
    asked = {"model": "m", text: said, "stream": is_stream}
    gate = gateway(fine(), prompt={"on_block": "refusal", "refusal": "Not that."})
    answer, data = ask(gate, call(asked, format=format))
    assert answer.status == 200
    assert b"Not that." in data
    assert (answer.events is not None) is is_stream


def test_a_policys_replacement_answers_a_prompt():
    policy = Policy.parse({"name": "r", "replacement": "Call 112.", "prompt": {"unsafe": "replace"}}, source="test")
    answer, data = ask(gateway(fine()), call(chat(content=BAD_PROMPT), policy=policy))
    assert answer.status == 200
    assert texts_in(data)[CONTENT] == "Call 112."
    assert reasons_in(data) == {0: "stop"}


def test_the_upstream_is_asked_while_the_prompt_is_judged_unless_it_must_not_be():
    at_once, after = fine(), fine()
    slow = ScriptedGuard()
    ask(gateway(at_once, guard=slow), call(chat(content=BAD_PROMPT)))
    ask(gateway(after, prompt={"call_upstream": "after_prompt"}), call(chat(content=BAD_PROMPT)))
    assert after.requests == []
    script = fine()
    ask(gateway(script, prompt={"call_upstream": "after_prompt"}), call(chat()))
    assert len(script.requests) == 1


def test_no_byte_leaves_before_the_prompts_verdict():
    async def watch() -> bool:
        guard = ScriptedGuard()
        opened = asyncio.Event()
        inner = guard.open

        class Late:
            def __init__(self, messages, policy):
                self.stream = inner(messages, policy)

            async def __aenter__(self):
                await opened.wait()
                return await self.stream.__aenter__()

            async def __aexit__(self, *error):
                return await self.stream.__aexit__(*error)

        script = fine()
        gate = gateway(script, open_guard=Late)
        entered = asyncio.ensure_future(gate.answer(call(chat())).__aenter__())
        for _ in range(50):
            await asyncio.sleep(0)
        was_waiting = not entered.done() and len(script.requests) == 1
        opened.set()
        answer = await entered
        assert answer.events is not None
        data = b"".join([part async for part in answer.events])
        return was_waiting and data.endswith(DONE)

    assert asyncio.run(watch())


BAD_BODIES = [
    b"",
    b"\xff",
    b"[]",
    b'{"model": "m", "messages": "hi"}',
    b'{"model": "m", "messages": [{"role": "king", "content": "hi"}]}',
    b'{"model": "m", "messages": [{"role": "user", "content": 3}]}',
    b'{"model": "", "messages": [{"role": "user", "content": "hi"}]}',
    b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": "true"}',
    b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 0}',
    b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 1e9}',
    b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
    b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "x": ' + b"[" * 99_999 + b"]" * 99_999 + b"}",
    b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "moderation": {"policy": {"input": {}, "x": 1}}}',
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_malformed_requests_are_refused_before_anybody_is_asked(body):
    script = fine()
    with pytest.raises(InputError):
        ask(gateway(script), call(body))
    assert script.requests == []


def test_the_upstream_sees_what_was_judged_and_nothing_else():
    body = (
        b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "x", "content": "hello"}], "seed": 7}'
    )
    script, guard = fine(), ScriptedGuard()
    ask(gateway(script, guard=guard), call(body))
    assert json.loads(script.requests[0].content) == {
        "model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}], "seed": 7
    }  # fmt: skip
    assert script.requests[0].content.count(b"content") == 1
    assert guard.contexts == [[("user", "hello")]]


def test_only_our_own_headers_are_sent(monkeypatch):
    monkeypatch.setenv("UP_KEY", "sk-ours")
    script = fine()
    ask(gateway(script, api_key_env="UP_KEY"), call(chat()))
    (request,) = script.requests
    assert request.headers["authorization"] == "Bearer sk-ours"
    assert sorted(request.headers) == [
        "accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host",
        "user-agent",
    ]  # fmt: skip
    assert str(request.url) == "http://upstream.test/v1/chat/completions"


def test_a_key_that_is_no_key_is_an_error_at_the_start(monkeypatch):
    config = UpstreamConfig(base_url="http://upstream.test/v1", api_key_env="UP_KEY")
    monkeypatch.setenv("UP_KEY", "a\r\nHost: evil")
    with pytest.raises(ConfigError, match="UP_KEY"):
        Upstream("up", config)


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read_are_an_error_at_the_start(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="ca_file"):
        Upstream("up", UpstreamConfig(base_url="https://upstream.test/v1", ca_file=path))


@pytest.mark.parametrize("url", ["ftp://x/v1", "http://a:b@x/v1", "http://x/v1?q", "//x", "http://", "http://x/ y"])
def test_addresses_that_hide_something_are_refused(url):
    with pytest.raises(ConfigError):
        UpstreamConfig.parse({"base_url": url}, source="test")


@pytest.mark.parametrize("name", ["other", "", "up/../x", "http://evil.test", "UP"])
def test_only_configured_names_are_asked(name):
    script = fine()
    gate = gateway(script)
    request = call(chat())
    with pytest.raises(InputError):
        ask(gate, type(request)(name, request.format, request.body, STRICT))
    assert script.requests == []


def test_only_configured_models_are_asked():
    with pytest.raises(InputError, match="model"):
        ask(gateway(fine(), models=["other"]), call(chat()))


STATUSES = [(400, 400), (401, 502), (403, 502), (404, 404), (422, 422), (429, 429), (500, 502), (503, 503), (302, 502)]


@pytest.mark.parametrize(("given", "expected"), STATUSES)
def test_statuses_of_the_upstream_are_the_clients_where_they_are_its_business(given, expected):
    script = Script(
        json.dumps({"error": {"message": "too many tokens"}}).encode(),
        status=given,
        content_type="application/json",
        headers={"retry-after": "7", "location": "http://evil.test/", "x-secret": "1", "set-cookie": "a=b"},
    )
    notebook = Notebook()
    answer, data = ask(gateway(script, observer=notebook), call(chat()))
    assert answer.status == expected
    assert dict(answer.headers) == ({"Retry-After": "7"} if given in (429, 503) else {})
    assert ("too many tokens" in json.loads(data)["error"]["message"]) is (given not in (302, 401, 403))
    assert notebook.outcomes[0].ending is EndReason.UPSTREAM_FAILED
    assert len(script.requests) == 1  # no redirect was followed


@pytest.mark.parametrize("value", ["\u0663", "7\r\nx: y", "-1", "1e3", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 40, ""])
def test_a_delay_that_is_no_number_of_seconds_is_not_passed_on(value):
    script = Script(b"{}", status=429, content_type="application/json", headers={"retry-after": value.encode()})
    answer, _ = ask(gateway(script), call(chat()))
    assert answer.status == 429
    assert answer.headers == {}


def test_an_upstreams_error_is_judged_like_everything_it_says():
    body = json.dumps({"error": {"message": "you said ## there"}}).encode()
    answer, data = ask(gateway(Script(body, status=400, content_type="application/json")), call(chat()))
    assert answer.status == 400
    assert b"##" not in data


FAILURES = [
    (httpx.ConnectError("no"), 502),
    (httpx.ConnectTimeout("late"), 504),
    (httpx.ReadTimeout("late"), 504),
    (httpx.RemoteProtocolError("odd"), 502),
]


@pytest.mark.parametrize(("error", "status"), FAILURES, ids=lambda each: type(each).__name__)
def test_an_upstream_that_does_not_answer_is_told_apart(error, status):
    answer, data = ask(gateway(Script(error=error)), call(chat()))
    assert answer.status == status
    assert json.loads(data)["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize("error", [httpx.ReadError("gone"), httpx.ReadTimeout("late")], ids=["gone", "late"])
def test_an_upstream_that_breaks_off_ends_in_an_error_the_client_sees(error):
    notebook, guard = Notebook(), ScriptedGuard()
    gate = gateway(Script(delta(content="so far #"), error=error), observer=notebook, guard=guard)
    _, data = ask(gate, call(chat()))
    assert texts_in(data)[CONTENT] == "so far #"  # judged at the end
    assert events_in(data)[-1]["error"]["code"] == "upstream_failed"
    assert notebook.outcomes[0].ending is EndReason.UPSTREAM_FAILED
    assert guard.num_open == 0


ENDINGS = {
    "nothing": b"",
    "no end": delta(content="hi"),
    "no JSON": delta(content="hi") + b"data: {oops\n\n",
    "no object": delta(content="hi") + b"data: [1]\n\n",
    "error": delta(content="hi") + event({"error": {"message": "##"}}),
    "choices": delta(content="hi") + event({"choices": {"0": "##"}}),
    "index": delta(content="hi") + event({"choices": [{"index": "0", "delta": {"content": "x"}}]}),
    "huge": delta(content="hi") + b"data: " + b"x" * 5_000_000,
    "deep": delta(content="hi") + b'data: {"choices": ' + b"[" * 500 + b"]" * 500 + b"}\n\n",
}


@pytest.mark.parametrize("name", ENDINGS)
def test_streams_that_end_badly_end_in_an_error(name):
    _, data = ask(gateway(Script(ENDINGS[name])), call(chat()))
    assert events_in(data)[-1]["error"]["code"] == "upstream_failed"
    assert texts_in(data).get(CONTENT) in (None, "hi")
    assert data.endswith(DONE)


def test_a_missing_end_marker_is_supplied():
    _, data = ask(gateway(Script(delta(content="hi"), delta(reason="stop"))), call(chat()))
    assert "error" not in events_in(data)[-1]
    assert data.endswith(DONE)


def test_an_upstream_that_has_ended_is_heard_out_so_that_its_connection_can_be_used_again():
    script = Script(delta(content="hi"), delta(reason="stop"), DONE, b"\n", b"")
    script.gate, script.gate_at = asyncio.Event(), 3

    async def read() -> None:
        gate = gateway(script)
        async with gate.answer(call(chat())) as answer:
            assert answer.events is not None
            async for _ in answer.events:
                pass
            assert script.gate is not None
            script.gate.set()
        await gate.aclose()

    asyncio.run(read())
    assert script.num_sent == 5


def test_several_choices_in_one_event_are_judged_apart():
    choices = [{"index": index, "delta": {"content": text}} for index, text in enumerate(["a ##", "fine"])]
    script = Script(event({"id": "c", "choices": choices, "usage": {"total_tokens": 1}}), delta(1, reason="stop"), DONE)
    _, data = ask(gateway(script), call(chat(n=2)))
    assert texts_in(data) == {(0, "content"): "a ", (1, "content"): "fine"}
    assert reasons_in(data) == {0: "content_filter", 1: "stop"}


def test_usage_comes_last_and_untouched():
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "completion_tokens_details": {"x": 0.5}}
    script = Script(delta(content="hi"), delta(reason="stop"), event({"id": "c", "choices": [], "usage": usage}), DONE)
    _, data = ask(gateway(script), call(chat(stream_options={"include_usage": True})))
    assert events_in(data)[-1]["usage"] == usage
    assert json.loads(script.requests[0].content)["stream_options"] == {"include_usage": True}


def test_comments_are_passed_on_as_signs_of_life_without_their_text():
    _, data = ask(
        gateway(Script(b": secret\n\n", b": more\n\n", delta(content="hi"), delta(reason="stop"), DONE)), call(chat())
    )
    assert b": keep-alive\n\n" in data
    assert b"secret" not in data


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_answer_of_the_other_kind_is_refused(is_stream):
    script = fine(content_type="application/json" if is_stream else "text/event-stream")
    answer, _ = ask(gateway(script), call(chat(stream=is_stream)))
    assert answer.status == 502


def test_compressed_answers_are_read_if_the_way_is_known():
    body = document_of("a ## b")
    script = Script(gzip.compress(body), content_type="application/json", headers={"content-encoding": "gzip"})
    _, data = ask(gateway(script), call(chat(stream=False)))
    assert json.loads(data)["choices"][0]["message"]["content"] == "a "
    script = Script(body, content_type="application/json", headers={"content-encoding": "rot13"})
    answer, _ = ask(gateway(script), call(chat(stream=False)))
    assert answer.status == 502


def test_an_answer_that_is_too_long_is_refused():
    limits = GatewayLimits(max_answer_bytes=1000)
    answer, _ = ask(
        gateway(Script(b" " * 2000, content_type="application/json"), limits=limits), call(chat(stream=False))
    )
    assert answer.status == 502
    script = Script(*[delta(content="x")] * 30, delta(reason="stop"), DONE)
    _, data = ask(gateway(script, limits=limits), call(chat()))
    assert events_in(data)[-1]["error"]["code"] == "upstream_failed"


def test_an_answer_that_takes_too_long_is_ended():
    script = fine()
    script.gate, script.gate_at = asyncio.Event(), 1
    _, data = ask(gateway(script, limits=GatewayLimits(max_answer_s=0.2)), call(chat()))
    assert texts_in(data)[CONTENT] == "hi"
    assert "max_answer_s" in events_in(data)[-1]["error"]["message"]


@pytest.mark.parametrize("num_parts", [0, 1])
def test_a_client_that_leaves_takes_everything_with_it(num_parts):
    script, guard, notebook = fine(), ScriptedGuard(), Notebook()
    script.gate, script.gate_at = asyncio.Event(), 1

    async def leave() -> None:
        gate = gateway(script, guard=guard, observer=notebook)
        async with gate.answer(call(chat())) as answer:
            assert answer.events is not None
            for _ in range(num_parts):
                await anext(answer.events)
        await gate.aclose()

    asyncio.run(leave())
    assert guard.num_open == 0
    assert script.is_closed
    assert [outcome.ending for outcome in notebook.outcomes] == [EndReason.CLIENT_GONE]


def test_a_cancelled_client_takes_everything_with_it():
    script, guard, notebook = fine(), ScriptedGuard(), Notebook()
    script.gate, script.gate_at = asyncio.Event(), 1

    async def leave() -> None:
        gate = gateway(script, guard=guard, observer=notebook)

        async def read() -> None:
            async with gate.answer(call(chat())) as answer:
                assert answer.events is not None
                async for _ in answer.events:
                    started.set()

        started = asyncio.Event()
        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gate.aclose()

    asyncio.run(leave())
    assert guard.num_open == 0
    assert script.is_closed
    assert [outcome.ending for outcome in notebook.outcomes] == [EndReason.CLIENT_GONE]


def test_a_slow_client_makes_the_upstream_wait():
    script = Script(*[delta(content="x " * 50)] * 500, delta(reason="stop"), DONE)

    async def read_slowly() -> int:
        gate = gateway(script, limits=GatewayLimits(max_ahead_bytes=2000))
        async with gate.answer(call(chat())) as answer:
            assert answer.events is not None
            await anext(answer.events)
            for _ in range(200):
                await asyncio.sleep(0)
            sent = script.num_sent
            async for _ in answer.events:
                pass
        await gate.aclose()
        return sent

    assert asyncio.run(read_slowly()) < 60
    assert script.num_sent == 502


def test_a_prompt_that_cannot_be_judged_is_refused_with_the_reason():
    guard, notebook, script = ScriptedGuard(opens=0), Notebook(), fine()
    guard.opening_error = OverloadedError("full")
    with pytest.raises(OverloadedError):
        ask(gateway(script, guard=guard, observer=notebook), call(chat()))
    assert notebook.outcomes[0].ending is EndReason.GUARD_FAILED
    assert script.is_closed


def test_a_policy_may_let_prompts_through_that_could_not_be_judged_but_not_their_answers():
    class Once(ScriptedGuard):
        def _stream(self, messages, policy):
            if messages:
                raise RuntimeError("too long")
            return super()._stream(messages, policy)

    policy = Policy.parse({"name": "l", "on_error": {"prompt": "flag"}}, source="test")
    _, data = ask(gateway(Script(delta(content="a ## b"), DONE), guard=Once()), call(chat(), policy=policy))
    assert texts_in(data)[CONTENT] == "a "


def test_what_cannot_be_recorded_does_not_end_well():
    notebook = Notebook()
    notebook.error = AuditError("disk full")
    _, data = ask(gateway(fine(), observer=notebook), call(chat()))
    assert events_in(data)[-1]["error"]["code"] == AuditError.code
    assert reasons_in(data) == {}
    with pytest.raises(AuditError):
        ask(gateway(fine(content_type="application/json"), observer=notebook), call(chat(stream=False)))


def test_the_end_is_told_before_the_client_sees_it():
    notebook = Notebook()

    async def read() -> None:
        gate = gateway(fine(), observer=notebook)
        async with gate.answer(call(chat())) as answer:
            assert answer.events is not None
            async for part in answer.events:
                assert DONE not in part or len(notebook.outcomes) == 1
        await gate.aclose()

    asyncio.run(read())
    (outcome,) = notebook.outcomes
    assert (outcome.ending, outcome.status, outcome.model) == (EndReason.COMPLETE, 200, "m")
    assert [(part.name, part.text) for part in outcome.parts] == [("0", "hi")]
    assert outcome.num_tokens == 2


@pytest.mark.parametrize("is_left", [False, True])
def test_a_call_that_is_over_leaves_nothing_to_the_garbage_collector(is_left):
    script = Script(delta(content="hello "), delta(content="there"), delta(reason="stop"), DONE)
    gate = gateway(script)

    async def talk() -> None:
        async with gate.answer(call(chat())) as answer:
            async for _ in answer.events:
                if is_left:
                    return

    async def talk_and_look() -> set[str]:
        await talk()
        await asyncio.sleep(0)
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await talk()
            await asyncio.sleep(0)
            gc.collect()
            return {type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("streamward")}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    assert asyncio.run(talk_and_look()) == set()
