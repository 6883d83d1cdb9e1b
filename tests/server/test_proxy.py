"""The gateway's routes: keys, logs, metrics, and real sockets on both sides."""

import asyncio
import json
import threading
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from streamward.errors import CheckpointError, ConfigError, OverloadedError
from streamward.moderation.gen_guard_adapter import GenGuardAdapter
from streamward.server.proxy import open_gateway
from tests.gateway.scripted import (
    CONTENT,
    DONE,
    Script,
    ScriptedGuard,
    chat,
    delta,
    document,
    event,
    events_in,
    reasons_in,
    spoken,
    texts_in,
)
from tests.generative.gen_guards import gen_guard
from tests.server.marked_guard import marked_moderator
from tests.server.services import open_service, served, settings

UPSTREAMS = {"up": {"base_url": "http://upstream.test/v1"}, "other": {"base_url": "http://other.test/v1"}}
PATHS = ["chat/completions", "completions", "responses"]


@contextmanager
def guarded(folder, script: Script, **changes):
    """A service over the guard that stops at `##`, in front of a scripted upstream."""
    moderator = marked_moderator()
    with open_service(folder, guard=moderator._guard, upstreams=UPSTREAMS, **changes) as service:
        transports = {"up": script, "other": script}
        gateway = open_gateway(service.state, transports=transports)
        service.app.state.gateway = service.app.state.gateway._replace(gateway=gateway)
        yield service
    moderator.close()


def rows(service) -> list[dict]:
    with service.state.engine.connect() as connection:
        found = connection.exec_driver_sql("select * from decisions order by id").mappings().all()
    return [dict(row) for row in found]


def test_a_streamed_answer_is_cut_before_the_flagged_text(tmp_path):
    with guarded(tmp_path, spoken("one # two ", "## three")) as service:
        answer = service.post("/up/v1/chat/completions", chat())
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert texts_in(answer.content)[CONTENT] == "one # two "
    assert reasons_in(answer.content) == {0: "content_filter"}


def test_a_whole_answer_is_cut_in_the_same_place(tmp_path):
    with guarded(tmp_path, document("one ## two")) as service:
        answer = service.post("/up/v1/chat/completions", chat(stream=False))
    assert answer.json()["choices"][0]["message"]["content"] == "one "


@pytest.mark.parametrize("path", PATHS)
def test_a_blocked_prompt_is_400(tmp_path, path):
    bad = {"chat/completions": {"messages": [{"role": "user", "content": "##"}]}, "completions": {"prompt": "##"}}
    with guarded(tmp_path, spoken("hi")) as service:
        answer = service.post(f"/up/v1/{path}", {"model": "m", **bad.get(path, {"input": "##"})})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "content_filter"


def test_models_of_an_upstream_are_listed(tmp_path):
    listed = {"data": [{"id": "m", "created": 7, "owned_by": "us"}]}
    with guarded(tmp_path, Script(json.dumps(listed).encode(), content_type="application/json")) as service:
        answer = service.get("/up/v1/models")
        assert service.get("/nowhere/v1/models").status_code == 404
    assert answer.json() == {"object": "list", "data": [{"id": "m", "object": "model", "created": 7, "owned_by": "us"}]}


@pytest.mark.parametrize("name", ["m", "a/b:c"])
def test_one_model_of_an_upstream_is_told(tmp_path, name):
    listed = {"data": [{"id": "m", "created": 7}, {"id": "a/b:c", "owned_by": "us"}]}
    with guarded(tmp_path, Script(json.dumps(listed).encode(), content_type="application/json")) as service:
        answer = service.get(f"/up/v1/models/{name}")
        missing = service.get("/up/v1/models/other")
    assert (answer.status_code, answer.json()["id"], answer.json()["object"]) == (200, name, "model")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["messages", "audio/transcriptions", "images/generations"])
def test_a_route_that_is_not_there_says_which_are(tmp_path, path):
    with guarded(tmp_path, spoken("hi")) as service:
        answer = service.post(f"/up/v1/{path}", {"model": "m"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "/chat/completions" in answer.json()["error"]["message"]


def test_embeddings_are_guarded_and_logged(tmp_path):
    body = {"data": [{"embedding": [0.5, 1], "index": 0}], "model": "m", "usage": {"total_tokens": 1}}
    with guarded(tmp_path, Script(json.dumps(body).encode(), content_type="application/json")) as service:
        answer = service.post("/up/v1/embeddings", {"model": "m", "input": "hello"})
        refused = service.post("/up/v1/embeddings", {"model": "m", "input": ["hello", "##"]})
        found = rows(service)
    assert answer.json()["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5, 1]}]
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
    assert [(row["action"], row["endpoint"]) for row in found] == [("allow", "gateway"), ("block", "gateway")]


def test_requests_beyond_the_rate_are_told_when_to_come_again_whoever_refuses_them(tmp_path):
    busy = Script(b"{}", status=429, content_type="application/json", headers={"retry-after": "7"})
    with guarded(tmp_path, busy, auth={"required": True}) as service:
        headers = service.key(requests_per_minute=1)
        upstreams, ours = (service.post("/up/v1/chat/completions", chat(), headers=headers) for _ in range(2))
    assert (upstreams.status_code, ours.status_code) == (429, 429)
    assert upstreams.headers["retry-after"] == "7"
    assert 1 <= int(ours.headers["retry-after"]) <= 60
    for answer in (upstreams, ours):
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_an_upstream_that_lists_nothing_is_502(tmp_path):
    with guarded(tmp_path, spoken("hi")) as service:
        answer = service.get("/up/v1/models")
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "upstream_error"


def test_every_answer_is_logged_and_counted(tmp_path):
    with guarded(tmp_path, spoken("one ## two")) as service:
        service.post("/up/v1/chat/completions", chat(), headers={"x-request-id": "req-1"})
        (row,) = rows(service)
        ended = {"upstream": "up", "format": "chat/completions", "ending": "response_blocked"}
        assert service.metric("streamward_gateway_answers_total", **ended) == 1
    assert (row["endpoint"], row["upstream"], row["model"]) == ("gateway", "up", "m")
    assert (row["action"], row["side"], row["stream_id"]) == ("block", "response", "req-1/0")
    assert (row["flagged_start"], row["response_chars"]) == (5, 10)
    assert row["response_text"] is None


def test_log_metrics_and_client_agree_where_flagged_text_comes_late(tmp_path):
    script = Script(delta(content="fine"), delta(reason="stop"), event({"choices": [], "note": "a ## b"}), DONE)
    with guarded(tmp_path, script) as service:
        answer = service.post("/up/v1/chat/completions", chat(), headers={"x-request-id": "req-1"})
        found = {row["stream_id"]: row for row in rows(service)}
        ended = {"upstream": "up", "format": "chat/completions", "ending": "response_blocked"}
        assert service.metric("streamward_gateway_answers_total", **ended) == 1
    assert reasons_in(answer.content) == {0: "content_filter"}
    assert [row["action"] for row in found.values()] == ["block", "block"]
    choice = found["req-1/0"]
    assert (choice["response_risk_level"], choice["position"], choice["response_chars"]) == ("Safe", None, 4)
    assert json.loads(choice["details"])["shown_chars"] == 4
    assert json.loads(found["req-1/envelope"]["details"])["shown_chars"] == 0


def test_an_answer_that_cannot_be_logged_has_no_good_end(tmp_path):
    with guarded(tmp_path, spoken("fine")) as service:
        service.state.audit.close()
        answer = service.post("/up/v1/chat/completions", chat())
        ended = {"upstream": "up", "format": "chat/completions", "ending": "not_recorded"}
        assert service.metric("streamward_gateway_answers_total", **ended) == 1
    assert b'"type":"audit_error","param":null,"code":"audit_failed"' in answer.content
    assert b'"finish_reason":"stop"' not in answer.content


def test_a_guard_that_cannot_stream_is_refused_before_upstreams_and_serves_without(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"upstreams up, other.*whole texts.*stream-135m"),
        open_service(tmp_path, guard=GenGuardAdapter(gen_guard()), upstreams=UPSTREAMS),
    ):
        pass
    with open_service(tmp_path, guard=GenGuardAdapter(gen_guard())) as service:
        assert service.post("/v1/guard", {"prompt": "hello"}).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["nobody", "UP", "\uff55\uff50", "u\u0440", "http:", "up%2F..", "%2e%2e", "%2fup", "up%00", "127.0.0.1:9000"],
)
def test_unknown_upstreams_are_404(tmp_path, name):
    script = spoken("hi")
    with guarded(tmp_path, script) as service:
        answer = service.post(f"/{name}/v1/chat/completions", chat())
    assert answer.status_code == 404
    assert script.requests == []


def test_keys_reach_their_own_upstreams_only_and_are_not_sent_on(tmp_path):
    script = spoken("hi")
    with guarded(tmp_path, script, auth={"required": True}) as service:
        key = service.key(upstreams=["up"])
        assert service.post("/up/v1/chat/completions", chat()).status_code == 401
        assert service.post("/other/v1/chat/completions", chat(), headers=key).status_code == 403
        headers = {**key, "X-Forwarded-For": "1.2.3.4", "Cookie": "a=b", "api-key": "x"}
        assert service.post("/up/v1/chat/completions", chat(), headers=headers).status_code == 200
    (request,) = script.requests
    assert not {"authorization", "cookie", "api-key", "x-forwarded-for"} & set(request.headers)


def test_headers_of_the_upstream_do_not_reach_the_client(tmp_path):
    headers = {"set-cookie": "a=b", "x-request-id": "theirs", "location": "http://evil.test", "transfer-encoding": "x"}
    script = Script(delta(content="hi"), delta(reason="stop"), DONE, headers=headers)
    with guarded(tmp_path, script) as service:
        answer = service.post("/up/v1/chat/completions", chat())
    assert not {"set-cookie", "location", "transfer-encoding"} & set(answer.headers)
    assert answer.headers["x-request-id"] != "theirs"


def test_malformed_requests_are_400(tmp_path):
    with guarded(tmp_path, spoken("hi")) as service:
        for body in (b"", b"[]", b'{"model": "m"}', b'{"model": "m", "messages": [{"role": "user"}], "stream": 1}'):
            answer = service.request("POST", "/up/v1/chat/completions", content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")


def test_another_policy_and_annotations_may_be_asked_for(tmp_path):
    with guarded(tmp_path, spoken("one ## two")) as service:
        headers = {"x-streamward-policy": "nowhere"}
        assert service.post("/up/v1/chat/completions", chat(), headers=headers).status_code == 400
        headers = {"x-streamward-policy": "loose", "x-streamward-annotations": "azure"}
        answer = service.post("/up/v1/chat/completions", chat(), headers=headers)
    assert b"prompt_filter_results" in answer.content
    assert b"content_filter_results" in answer.content


def test_an_upstream_without_its_key_is_an_error_at_the_start(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    upstreams = {"up": {"base_url": "http://x.test/v1", "api_key_env": "NO_SUCH_KEY"}}
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"), open_service(tmp_path, upstreams=upstreams):
        pass


@pytest.mark.parametrize("name", ["Up", "a/b", "", "-a", "x" * 64])
def test_names_of_upstreams_are_plain(tmp_path, name):
    with pytest.raises(ConfigError):
        settings(tmp_path, upstreams={name: {"base_url": "http://x.test/v1"}})


class Talker:
    """A real upstream: says a word at a time, and waits where it is told to."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.go_on = threading.Event()
        self.was_left = threading.Event()
        self.app.post("/v1/chat/completions")(self.talk)

    async def talk(self, request: Request) -> StreamingResponse:
        words = str((await request.json())["messages"][-1]["content"]).split(" ")
        return StreamingResponse(self._say(words), media_type="text/event-stream")

    async def _say(self, words):
        try:
            for word in words:
                if word == "DIE":
                    raise OSError("as if killed")
                if word == "WAIT":
                    await run_in_threadpool(self.go_on.wait, 10)
                yield delta(content=word + " ")
            yield delta(reason="stop") + DONE
        except (asyncio.CancelledError, GeneratorExit):
            self.was_left.set()
            raise


@contextmanager
def talking(folder, talker: Talker):
    """The upstream on a port of its own, and a service in front of it."""
    moderator = marked_moderator()
    with served(talker.app) as upstream:
        upstreams = {"up": {"base_url": f"{upstream}/v1"}}
        with open_service(folder, guard=moderator._guard, upstreams=upstreams) as service:
            yield service
    moderator.close()


def test_words_leave_while_the_upstream_still_talks(tmp_path):
    talker = Talker()
    with talking(tmp_path, talker) as service, served(service.app) as address, httpx.Client(timeout=10) as client:
        asked = client.stream("POST", f"{address}/up/v1/chat/completions", json=chat(content="a b WAIT c"))
        with asked as answer:
            parts = answer.iter_raw()
            early = b""
            while b'"b "' not in early:
                early += next(parts)
            talker.go_on.set()
            late = b"".join(parts)
    assert texts_in(early + late)[CONTENT] == "a b WAIT c "
    assert b"WAIT" in late


def test_a_client_that_leaves_ends_the_upstreams_answer_and_frees_the_guard(tmp_path):
    talker = Talker()
    with talking(tmp_path, talker) as service:
        with served(service.app) as address, httpx.Client(timeout=10) as client:
            asked = client.stream("POST", f"{address}/up/v1/chat/completions", json=chat(content="a WAIT c"))
            with asked as answer:
                next(answer.iter_raw())
            talker.go_on.set()
        left = {"upstream": "up", "format": "chat/completions", "ending": "client_gone"}
        assert service.metric("streamward_gateway_answers_total", **left) == 1
        assert service.state.moderator._guard.engine.num_streams == 0
        (row,) = rows(service)
        details = json.loads(row["details"])
        assert (details["ending"], details["judged_chars"], details["shown_chars"]) == ("client_gone", 2, 2)
        assert (row["action"], row["response_risk_level"], row["num_tokens"] > 1) == ("allow", "Safe", True)


def test_an_upstream_that_dies_in_the_middle_is_seen_by_the_client_and_in_the_metrics(tmp_path):
    with talking(tmp_path, Talker()) as service, served(service.app) as address:
        answer = httpx.post(f"{address}/up/v1/chat/completions", json=chat(content="a b DIE c"), timeout=10)
        ended = {"upstream": "up", "format": "chat/completions", "ending": "upstream_failed"}
        assert service.metric("streamward_gateway_answers_total", **ended) == 1
    assert texts_in(answer.content)[CONTENT] == "a b "
    assert events_in(answer.content)[-1]["error"]["code"] == "upstream_failed"
    assert reasons_in(answer.content) == {}


class Scripted:
    """The scripted guard, as a service takes one."""

    def __init__(self, guard: ScriptedGuard) -> None:
        self._guard = guard

    def open_stream(self, conversation, policy, *, max_chars):
        return self._guard._stream(conversation.context, policy)

    def judge(self, conversation, policy):
        raise AssertionError("streams only")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [RuntimeError("secret"), OverloadedError("full"), CheckpointError("nan")])
def test_a_guard_that_raises_stops_the_answer_and_is_seen_in_the_metrics(tmp_path, caplog, error):
    guard = ScriptedGuard(fails_at=1, error=error)
    limits = {"overload_wait_s": 0}
    with open_service(tmp_path, guard=Scripted(guard), upstreams=UPSTREAMS, gateway=limits) as service:
        gateway = open_gateway(service.state, transports={"up": spoken("hi"), "other": spoken("hi")})
        service.app.state.gateway = service.app.state.gateway._replace(gateway=gateway)
        answer = service.post("/up/v1/chat/completions", chat())
        code = getattr(error, "code", "internal")
        assert service.metric("streamward_guard_errors_total", endpoint="gateway", code=code) == 1
    assert texts_in(answer.content) == {}
    assert reasons_in(answer.content) == {0: "content_filter"}
    assert "secret" not in caplog.text


def test_an_upstream_that_is_not_there_is_502(tmp_path):
    upstreams = {"up": {"base_url": "http://127.0.0.1:9/v1"}}
    with open_service(tmp_path, upstreams=upstreams) as service:
        answer = service.post("/up/v1/chat/completions", chat(content="t"), headers={"x-streamward-policy": "strict"})
    assert answer.status_code in (400, 502)  # the random guard may block the prompt
