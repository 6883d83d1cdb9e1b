"""A Gen guard behind an endpoint: what is sent, what is tried again, what becomes an error."""

import json

import httpx
import pytest
from pydantic import SecretStr

from streamward.errors import ConfigError, UpstreamError
from streamward.generative.config import RemoteConfig
from streamward.generative.remote import RemoteGenGuard
from streamward.schema import Category, Message, RiskLevel, Role

UNSAFE = "Safety: Unsafe\nCategories: Non-violent Illegal Acts\nRefusal: No"
MESSAGES = [Message(Role.USER, "swordfish"), Message(Role.ASSISTANT, "answer")]


def completion(content: object) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": content}}]})


class Endpoint:
    """Answers with the replies given, one after the other, and remembers what it was asked."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def guard(self, **changes) -> RemoteGenGuard:
        self.config = RemoteConfig(
            base_url="http://guard/v1/", model="guard", api_key=SecretStr("open-sesame"), **changes
        )
        return RemoteGenGuard(self.config, transport=httpx.MockTransport(self), sleep=self.waits.append)


def test_the_conversation_is_sent_and_the_answer_read():
    endpoint = Endpoint(completion(UNSAFE))
    judgement = endpoint.guard().judge(MESSAGES)
    request = endpoint.requests[0]
    body = json.loads(request.content)
    assert str(request.url) == "http://guard/v1/chat/completions"
    assert request.headers["Authorization"] == "Bearer open-sesame"
    assert body["messages"] == [{"role": "user", "content": "swordfish"}, {"role": "assistant", "content": "answer"}]
    assert (body["model"], body["temperature"]) == ("guard", 0)
    assert judgement.risk_level is RiskLevel.UNSAFE
    assert judgement.probabilities == {RiskLevel.SAFE: 0, RiskLevel.CONTROVERSIAL: 0, RiskLevel.UNSAFE: 1}
    assert judgement.categories == (Category.ILLEGAL_ACTS,)
    assert judgement.refusal is False


@pytest.mark.parametrize(
    "failure",
    [httpx.Response(429), httpx.Response(500), httpx.Response(503), httpx.ConnectError("x"), httpx.ReadTimeout("x")],
)
def test_passing_failures_are_tried_again(failure):
    endpoint = Endpoint(failure, completion(UNSAFE))
    assert endpoint.guard().judge(MESSAGES).risk_level is RiskLevel.UNSAFE
    assert endpoint.waits == [0.5]


def test_tries_end_and_waits_double():
    endpoint = Endpoint(*[httpx.Response(503)] * 4)
    with pytest.raises(UpstreamError, match="after 4 tries: status 503"):
        endpoint.guard(max_retries=3).judge(MESSAGES)
    assert endpoint.waits == [0.5, 1.0, 2.0]


def test_a_server_may_say_how_long_to_wait():
    endpoint = Endpoint(httpx.Response(429, headers={"Retry-After": "7"}), completion(UNSAFE))
    endpoint.guard().judge(MESSAGES)
    assert endpoint.waits == [7.0]


@pytest.mark.parametrize("status", [400, 401, 404])
def test_our_own_mistakes_are_not_tried_again(status):
    endpoint = Endpoint(httpx.Response(status, text="swordfish"))
    with pytest.raises(UpstreamError, match=f"status {status}"):
        endpoint.guard().judge(MESSAGES)


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"choices": []}),
        completion(None),
        completion(["Safety: Safe"]),
        completion("As an AI, I think this is Safe."),
    ],
)
def test_answers_that_cannot_be_read_are_errors_never_safe(reply):
    with pytest.raises(UpstreamError):
        Endpoint(reply).guard().judge(MESSAGES)


def test_neither_key_nor_text_is_in_errors_or_representations():
    endpoint = Endpoint(httpx.Response(400, text="open-sesame swordfish"))
    guard = endpoint.guard()
    with pytest.raises(UpstreamError) as caught:
        guard.judge(MESSAGES)
    shown = f"{caught.value} {caught.value.__cause__} {endpoint.config!r} {guard!r}"
    assert "open-sesame" not in shown
    assert "swordfish" not in shown


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ConfigError, match="base_url"):
        RemoteConfig.parse({"base_url": "guard:8000", "model": "x"}, source="test")
