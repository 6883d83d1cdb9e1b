"""The list of an upstream's models."""

import asyncio
import json

import pytest

from streamward.errors import InputError, UpstreamError
from tests.gateway.scripted import Script, gateway


def listing(script: Script, upstream: str = "up", **config):
    async def ask():
        gate = gateway(script, **config)
        try:
            return await gate.models(upstream)
        finally:
            await gate.aclose()

    return asyncio.run(ask())


def answer(body: object, **facts) -> Script:
    return Script(json.dumps(body).encode(), content_type="application/json", **facts)


def test_models_are_listed_without_what_else_an_upstream_says_of_them():
    script = answer({"object": "list", "data": [{"id": "m", "created": 7, "owned_by": "us", "root": "/srv/models/m"}]})
    assert listing(script) == [{"id": "m", "object": "model", "created": 7, "owned_by": "us"}]
    assert (script.requests[0].method, script.requests[0].url.path) == ("GET", "/v1/models")
    assert script.is_closed


def test_entries_that_are_no_models_are_left_out():
    said = [{"id": "anything that is said"}, {"id": "m2", "owned_by": "anything that is said"}]
    script = answer({"data": [{"id": 3}, "m", None, {"id": "m", "created": "today", "owned_by": 5}, *said]})
    assert listing(script) == [
        {"id": "m", "object": "model", "created": 0, "owned_by": ""},
        {"id": "m2", "object": "model", "created": 0, "owned_by": ""},
    ]


def test_only_models_that_may_be_asked_for_are_listed():
    listed = {"data": [{"id": name} for name in ("a", "b", "c")]}
    assert [model["id"] for model in listing(answer(listed), models=["c", "a", "z"])] == ["a", "c"]


@pytest.mark.parametrize("body", [[], {"data": "m"}, {"models": []}, "m"])
def test_an_answer_that_is_no_list_is_an_error(body):
    with pytest.raises(UpstreamError, match="does not list its models"):
        listing(answer(body))


def test_a_list_without_end_is_not_read_to_the_end():
    script = Script(*[b" " * 2**20] * 64, content_type="application/json")
    with pytest.raises(UpstreamError, match="does not list its models"):
        listing(script)
    assert script.num_sent < 10


def test_a_refusal_is_an_error_without_the_upstreams_words():
    with pytest.raises(UpstreamError) as caught:
        listing(answer({"error": {"message": "key sk-123 is wrong"}}, status=401))
    assert "sk-123" not in str(caught.value)


def test_an_unknown_upstream_is_refused():
    with pytest.raises(InputError):
        listing(answer({"data": []}), upstream="other")
