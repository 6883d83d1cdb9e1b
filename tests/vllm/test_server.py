"""A vLLM server as it answers, and all the ways in which it may not."""

import base64
import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from streamward.errors import ConfigError, OverloadedError, UpstreamError
from streamward.schema import Side
from streamward.vllm.config import VllmConfig
from streamward.vllm.driver import VllmTokenScorer
from streamward.vllm.layout import Rows, fingerprint, head_widths
from streamward.vllm.server import VllmServer
from tests.engine.harness import assert_same, full_pass, opinions_of, random_guard, random_ids
from tests.vllm.fake_vllm import FakeVllm

GUARD = random_guard()
NUM_LABELS = sum(head_widths(GUARD.guard_config))
FINGERPRINT = fingerprint(GUARD.decoder.config, GUARD.guard_config)
Answer = httpx.Response | Exception


class Upstream:
    """A server's routes over a fake vLLM; `answers` come first."""

    def __init__(self) -> None:
        self.vllm = FakeVllm(GUARD)
        self.requests: list[httpx.Request] = []
        self.answers: list[Answer] = []
        self.models = [{"id": "guard", "max_model_len": 128}]
        self.fingerprint = FINGERPRINT

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": self.models})
        body = json.loads(request.content)
        assert (request.url.path, body["model"]) == ("/pooling", "guard")
        if "data" in body:
            rows = self.vllm.read(body["data"]["token_ids"], reuse=True)
            data = {"guard": self.fingerprint, "num_cached": rows.num_cached, "probabilities": encoded(rows)}
            return httpx.Response(200, json={"data": {**data, "labels": NUM_LABELS}})
        assert (body["task"], body["encoding_format"], body["endianness"]) == ("token_classify", "base64", "little")
        return httpx.Response(200, json={"data": [{"data": encoded(self.vllm.read(body["input"], reuse=False))}]})


def encoded(rows: Rows) -> str:
    return base64.b64encode(rows.probs.astype("<f4").tobytes()).decode()


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def connect(upstream: Callable[[httpx.Request], httpx.Response], **settings: object) -> VllmServer:
    config = VllmConfig.model_validate({"url": "http://vllm:8000/", "timeout_s": 5, **settings})
    return VllmServer(
        config, guard=FINGERPRINT, vocab_size=64, num_labels=NUM_LABELS, transport=httpx.MockTransport(upstream)
    )


def test_a_stream_over_http_has_the_verdicts_of_one_pass(upstream):
    driver = VllmTokenScorer(connect(upstream), guard_config=GUARD.guard_config, max_streams=2, max_stream_tokens=None)
    ids = random_ids(50, seed=1)
    for _ in range(2):  # the second finds everything in the cache
        with driver.temporary_stream() as stream:
            outputs = [
                *driver.score_segments(stream, [(ids[:20], None), (ids[20:21], Side.PROMPT)]),
                *driver.score(stream, ids[21:40], head=Side.RESPONSE),
                *driver.score(stream, ids[40:], head=Side.RESPONSE),
            ]
        given = {position: opinion for _, position, opinion in opinions_of(outputs)}
        assert_same(given, full_pass(GUARD, ids, [None] * 20 + [Side.PROMPT] + [Side.RESPONSE] * 29))


def test_the_servers_longest_text_is_the_streams(upstream):
    assert connect(upstream).max_tokens == 128


def test_the_key_is_sent(upstream, monkeypatch):
    monkeypatch.setenv("VLLM_KEY", "sesame")
    connect(upstream, api_key_env="VLLM_KEY")
    assert {request.headers["Authorization"] for request in upstream.requests} == {"Bearer sesame"}


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_the_key_is_said(upstream, status):
    upstream.answers = [httpx.Response(status)]
    with pytest.raises(UpstreamError, match="refuses the key; set api_key_env"):
        connect(upstream)


def test_a_key_that_is_not_set_is_said_before_anything_is_asked(upstream, monkeypatch):
    monkeypatch.delenv("VLLM_KEY", raising=False)
    with pytest.raises(ConfigError, match="VLLM_KEY"):
        connect(upstream, api_key_env="VLLM_KEY")
    assert upstream.requests == []


def test_one_of_several_models_must_be_named(upstream):
    upstream.models.append({"id": "other", "max_model_len": 99})
    with pytest.raises(ConfigError, match="set `model` to one of them: guard, other"):
        connect(upstream)
    assert connect(upstream, model="guard").max_tokens == 128


@pytest.mark.parametrize("models", [[], [{"id": "x"}], "nonsense", None, [None]])
def test_a_server_without_models_is_refused(upstream, models):
    upstream.models = models
    with pytest.raises(ConfigError):
        connect(upstream)


@pytest.mark.parametrize("status", [400, 404, 405, 422, 500, 501])
def test_a_server_without_the_plugin_is_told_how_to_start(upstream, status):
    upstream.answers = [httpx.Response(200, json={"data": upstream.models}), httpx.Response(status, json={})]
    with pytest.raises(ConfigError, match=f"status {status}; start it as: vllm serve .* --io-processor-plugin"):
        connect(upstream)


def test_a_server_with_another_guard_is_refused(upstream):
    upstream.fingerprint = "0" * 16
    with pytest.raises(ConfigError, match="another guard"):
        connect(upstream)


def test_a_guard_changed_behind_the_address_is_noticed(upstream):
    server = connect(upstream)
    upstream.fingerprint = "0" * 16
    with pytest.raises(UpstreamError, match="another guard"):
        server.read([1], reuse=True)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_full_may_be_asked_later(upstream, status):
    server = connect(upstream)
    upstream.answers = [httpx.Response(status)]
    with pytest.raises(OverloadedError):
        server.read([1], reuse=True)
    assert len(server.read([1], reuse=True).probs) == 1


@pytest.mark.parametrize("error", [httpx.ConnectError("x"), httpx.ReadError("x"), httpx.RemoteProtocolError("x")])
def test_a_lost_connection_is_tried_once_more(upstream, error):
    server = connect(upstream)
    upstream.answers = [error]
    assert len(server.read([1, 2], reuse=True).probs) == 2
    upstream.answers = [error, error]
    with pytest.raises(UpstreamError, match=r"cannot be reached: (nothing answers|the connection broke)"):
        server.read([1], reuse=True)


def test_a_server_that_hangs_is_not_asked_twice(upstream):
    server = connect(upstream)
    upstream.answers = [httpx.ReadTimeout("x")]
    before = len(upstream.requests)
    with pytest.raises(UpstreamError, match="did not answer within 5 s"):
        server.read([1], reuse=True)
    assert len(upstream.requests) == before + 1


def test_a_server_that_cannot_be_reached_is_said_at_once(upstream):
    upstream.answers = [httpx.ConnectError("refused")] * 2
    with pytest.raises(UpstreamError, match="cannot be reached"):
        connect(upstream)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"data": null}',
        b'{"data": []}',
        b'{"data": [{"data": "AAAA"}]}',
        b'{"data": [{"data": 5}]}',
        json.dumps({"data": {"guard": FINGERPRINT, "num_cached": True, "probabilities": ""}}).encode(),
        json.dumps({"data": {"guard": FINGERPRINT, "num_cached": 0, "probabilities": "AAAA"}}).encode(),
        json.dumps({"data": {"guard": FINGERPRINT, "num_cached": 0, "probabilities": "!"}}).encode(),
        b"[" * 5000,
    ],
)
def test_an_answer_that_cannot_be_read_is_no_verdict(upstream, body, reuse):
    server = connect(upstream)
    upstream.answers = [httpx.Response(200, content=body)]
    with pytest.raises(UpstreamError):
        server.read([1], reuse=reuse)


def test_an_empty_answer_gives_no_rows(upstream):
    driver = VllmTokenScorer(connect(upstream), guard_config=GUARD.guard_config, max_streams=2, max_stream_tokens=None)
    stream = driver.open()
    upstream.answers = [
        httpx.Response(200, json={"data": {"guard": FINGERPRINT, "num_cached": 0, "probabilities": ""}})
    ] * 9
    with pytest.raises(OverloadedError):
        driver.score(stream, [1, 2], head=Side.RESPONSE)


@pytest.mark.parametrize("num_cached", [-1, -5, 7])
def test_a_cache_that_cannot_be_is_no_verdict(upstream, num_cached):
    driver = VllmTokenScorer(connect(upstream), guard_config=GUARD.guard_config, max_streams=2, max_stream_tokens=None)
    stream = driver.open()
    rows = Rows(np.zeros((2, NUM_LABELS), np.float32), num_cached)
    answer = {"guard": FINGERPRINT, "num_cached": num_cached, "probabilities": encoded(rows)}
    upstream.answers = [httpx.Response(200, json={"data": answer})] * 9
    with pytest.raises((OverloadedError, UpstreamError)):
        driver.score(stream, [1, 2], head=Side.RESPONSE)
