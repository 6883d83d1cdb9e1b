"""Gen guards behind an endpoint: what is sent, what is tried again, what is refused, and what never shows."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from streamward.errors import ConfigError, UpstreamError
from streamward.generative.config import RemoteConfig
from streamward.generative.remote import RemoteGenGuard
from streamward.schema import Category, Message, RiskLevel, Role

URL = "http://guard.test/v1"
SECRET = "sk-very-secret"
TEXT = "sesame seeds"
USER = Message(Role.USER, TEXT)
ANSWER = "Safety: Unsafe\nCategories: Violent, PII\nRefusal: No"
Handler = Callable[[httpx.Request], httpx.Response]


def completion(content: object = ANSWER) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": content}}]})


def remote(handler: Handler, *, slept: list[float] | None = None, **settings: Any) -> RemoteGenGuard:
    config = RemoteConfig.parse({"base_url": URL, "model": "guard", **settings}, source="test")
    sleep = (lambda seconds: None) if slept is None else slept.append
    return RemoteGenGuard(config, transport=httpx.MockTransport(handler), sleep=sleep)


def in_turn(*outcomes: httpx.Response | Exception) -> Handler:
    """Answer each request with the next outcome; more requests than outcomes fail the test."""
    left = list(outcomes)

    def handle(request: httpx.Request) -> httpx.Response:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return handle


def recording(sent: list[httpx.Request]) -> Handler:
    """Keep each request and answer it."""

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return completion()

    return handle


def test_an_answer_is_a_judgement_with_all_probability_on_its_level() -> None:
    found = remote(in_turn(completion())).judge([USER])
    assert found.risk_level is RiskLevel.UNSAFE
    assert found.categories == (Category.VIOLENT, Category.PII)
    assert found.refusal is False
    assert found.probabilities == {RiskLevel.SAFE: 0.0, RiskLevel.CONTROVERSIAL: 0.0, RiskLevel.UNSAFE: 1.0}


def test_messages_are_sent_as_they_are() -> None:
    sent: list[httpx.Request] = []
    guard = remote(recording(sent), api_key=SECRET)
    guard.judge([Message(Role.SYSTEM, "Be kind."), USER, Message(Role.ASSISTANT, "No.", reasoning="Hm.")])
    assert str(sent[0].url) == "http://guard.test/v1/chat/completions"
    assert sent[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert json.loads(sent[0].content) == {
        "model": "guard",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": TEXT},
            {"role": "assistant", "content": "No.", "reasoning_content": "Hm."},
        ],
        "temperature": 0,
        "max_tokens": 64,
    }


def test_a_lone_surrogate_is_sent_as_a_replacement_character() -> None:
    sent: list[httpx.Request] = []
    remote(recording(sent)).judge([Message(Role.USER, "a\ud800b")])
    assert json.loads(sent[0].content)["messages"][0]["content"] == "a\ufffdb"


def test_without_a_key_none_is_sent() -> None:
    sent: list[httpx.Request] = []
    remote(recording(sent), base_url=URL + "/").judge([USER])
    assert "Authorization" not in sent[0].headers
    assert str(sent[0].url) == "http://guard.test/v1/chat/completions"


def test_a_key_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_KEY", SECRET)
    sent: list[httpx.Request] = []
    remote(recording(sent), api_key_env="GUARD_KEY").judge([USER])
    assert sent[0].headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("value", ["", f"{SECRET}\n", f" {SECRET}", f"{SECRET}\u00e9"])
def test_an_environment_variable_without_a_usable_key_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GUARD_KEY", value)
    with pytest.raises(ConfigError, match="GUARD_KEY") as caught:
        remote(in_turn(), api_key_env="GUARD_KEY")
    assert SECRET not in str(caught.value)


def test_a_missing_environment_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARD_KEY", raising=False)
    with pytest.raises(ConfigError, match="GUARD_KEY"):
        remote(in_turn(), api_key_env="GUARD_KEY")


@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(429),
        httpx.Response(500),
        httpx.Response(503),
        httpx.ReadTimeout("slow"),
        httpx.ConnectTimeout("slow"),
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError("hung up"),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(failure: httpx.Response | Exception) -> None:
    found = remote(in_turn(failure, failure, completion()), max_retries=2).judge([USER])
    assert found.risk_level is RiskLevel.UNSAFE


def test_waits_double() -> None:
    slept: list[float] = []
    handler = in_turn(httpx.Response(500), httpx.ConnectError("refused"), httpx.Response(502), completion())
    remote(handler, slept=slept, max_retries=3, backoff_s=0.5).judge([USER])
    assert slept == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("header", "wait"),
    [("7", 7.0), ("0", 0.0), ("-1", 0.0), ("999999", 30.0), ("soon", 0.5), ("nan", 0.0), ("GMT", 0.5)],
)
def test_retry_after_is_kept_up_to_the_timeout(header: str, wait: float) -> None:
    slept: list[float] = []
    remote(in_turn(httpx.Response(429, headers={"Retry-After": header}), completion()), slept=slept).judge([USER])
    assert slept == [wait]


def test_retry_after_may_be_a_date() -> None:
    slept: list[float] = []
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    remote(in_turn(httpx.Response(503, headers={"Retry-After": date}), completion()), slept=slept).judge([USER])
    assert slept[0] == pytest.approx(20, abs=3)


def test_after_the_last_try_the_failure_is_an_error_without_a_wait() -> None:
    slept: list[float] = []
    with pytest.raises(UpstreamError, match="after 2 tries: status 503"):
        remote(in_turn(httpx.Response(503), httpx.Response(503)), slept=slept, max_retries=1).judge([USER])
    assert len(slept) == 1


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    with pytest.raises(UpstreamError, match=f"after 1 tries: status {status}"):
        remote(in_turn(httpx.Response(status, headers={"Location": "http://other.test"}))).judge([USER])


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, content=b"\xff\xfe\xff"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json=None),
        httpx.Response(200, json={"error": "no such model"}),
        httpx.Response(200, json={"choices": []}),
        httpx.Response(200, json={"choices": [{}]}),
        httpx.Response(200, json={"choices": [{"message": None}]}),
        httpx.Response(200, text="[" * 100_000),
        completion(None),
        completion([{"type": "text", "text": ANSWER}]),
        completion("I cannot judge this."),
        completion("Safety: Maybe"),
        completion(""),
    ],
)
def test_an_unreadable_answer_is_an_error(response: httpx.Response) -> None:
    with pytest.raises(UpstreamError):
        remote(in_turn(response)).judge([USER])


@pytest.mark.parametrize(
    "outcome",
    [
        httpx.Response(401, json={"error": f"wrong key {SECRET} for {TEXT}"}),
        httpx.Response(500, text=f"{SECRET} {TEXT}"),
        httpx.ConnectError(f"{SECRET} {TEXT}"),
        httpx.UnsupportedProtocol(f"{SECRET} {TEXT}"),
        httpx.InvalidURL(f"{SECRET} {TEXT}"),
        completion(TEXT),
        httpx.Response(200, text=TEXT),
    ],
    ids=repr,
)
def test_no_error_shows_key_or_text(outcome: httpx.Response | Exception) -> None:
    guard = remote(in_turn(outcome), api_key=SECRET, max_retries=0)
    with pytest.raises(UpstreamError) as caught:
        guard.judge([USER])
    assert caught.value.__cause__ is None
    assert not [shown for shown in (SECRET, TEXT) if shown in repr(caught.value)]


def test_no_repr_shows_the_key() -> None:
    config = RemoteConfig.parse({"base_url": URL, "model": "guard", "api_key": SECRET}, source="test")
    shown = f"{config!r} {config} {config.model_dump()} {config.model_dump_json()} {RemoteGenGuard(config)!r}"
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"base_url": "guard.test/v1"}, "base_url"),
        ({"base_url": f"http://user:{SECRET}@guard.test/v1"}, "base_url"),
        ({"base_url": f"http://guard.test/v1?key={SECRET}"}, "base_url"),
        ({"model": ""}, "model"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": f"{SECRET}\n"}, "api_key"),
        ({"api_key": [SECRET]}, "api_key"),
        ({"api_key_env": SECRET}, "api_key_env"),
        ({"api_key": SECRET, "api_key_env": "GUARD_KEY"}, "api_key_env"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"max_retries": -1}, "max_retries"),
        ({"apikey": SECRET}, "apikey"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it_and_shows_no_key(settings: dict[str, Any], key: str) -> None:
    values = {"base_url": URL, "model": "guard", **settings}
    with pytest.raises(ConfigError, match=key) as caught:
        RemoteConfig.parse(values, source="test")
    assert SECRET not in f"{caught.value} {caught.value.__cause__}"


def test_settings_import_neither_torch_nor_httpx() -> None:
    program = (
        "import sys, streamward.generative.config; sys.exit(any(name in sys.modules for name in ('torch', 'httpx')))"
    )
    path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    assert subprocess.run([sys.executable, "-c", program], env=path, check=False).returncode == 0
