"""Embeddings: texts are judged, numbers pass."""

import asyncio
import json

import httpx
import pytest

from streamward.errors import InputError, OverloadedError
from streamward.gateway.call_record import EndReason
from streamward.policy import Policy
from tests.gateway.scripted import BAD_PROMPT, Notebook, Script, ScriptedGuard, ask, call, gateway

ENTRY = {"object": "embedding", "index": 0, "embedding": [0.5, -1, 2e-3]}
USAGE = {"prompt_tokens": 3, "total_tokens": 3}


def answer(*entries: object, **fields: object) -> Script:
    body = {"object": "list", "data": entries or [ENTRY], "model": "m", "usage": USAGE, **fields}
    return Script(json.dumps(body).encode(), content_type="application/json")


def asking(given: object, **fields: object):
    return call({"model": "m", "input": given, **fields}, format="embeddings")


@pytest.mark.parametrize("given", ["hello", ["hello", "there"]])
def test_texts_that_are_allowed_get_their_embeddings(given):
    script, notebook, guard = answer(), Notebook(), ScriptedGuard()
    found, data = ask(gateway(script, observer=notebook, guard=guard), asking(given, dimensions=3))
    assert found.status == 200
    assert json.loads(data) == {"object": "list", "data": [ENTRY], "model": "m", "usage": USAGE}
    assert json.loads(script.requests[0].content) == {"model": "m", "input": given, "dimensions": 3}
    assert str(script.requests[0].url) == "http://upstream.test/v1/embeddings"
    assert guard.num_opened == (1 if given == "hello" else 2)
    assert guard.num_open == 0
    assert notebook.outcomes[0].ending is EndReason.COMPLETE


@pytest.mark.parametrize("given", [BAD_PROMPT, ["hello", BAD_PROMPT, "there"]])
@pytest.mark.parametrize("on_block", ["error", "refusal"])
def test_a_text_that_is_not_allowed_is_refused_before_the_upstream_is_asked(given, on_block):
    script, notebook = answer(), Notebook()
    found, data = ask(gateway(script, observer=notebook, prompt={"on_block": on_block}), asking(given))
    assert (found.status, json.loads(data)["error"]["code"]) == (400, "content_filter")
    assert script.requests == []
    (outcome,) = notebook.outcomes
    assert (outcome.ending, outcome.messages[0].content) == (EndReason.PROMPT_BLOCKED, BAD_PROMPT)


def test_a_text_that_cannot_be_judged_is_refused_unless_the_policy_lets_it_through():
    guard, script, notebook = ScriptedGuard(opens=0), answer(), Notebook()
    guard.opening_error = OverloadedError("full")
    with pytest.raises(OverloadedError):
        ask(gateway(script, guard=guard, observer=notebook), asking("hello"))
    assert (script.requests, notebook.outcomes[0].ending) == ([], EndReason.GUARD_FAILED)
    policy = Policy.parse({"name": "l", "on_error": {"prompt": "flag"}}, source="test")
    request = call({"model": "m", "input": "hello"}, format="embeddings", policy=policy)
    found, _ = ask(gateway(answer(), guard=guard), request)
    assert found.status == 200


@pytest.mark.parametrize("given", [None, [], 3, {"a": "b"}, ["a", 3], ["x"] * 2049])
def test_an_input_that_is_no_text_is_refused(given):
    script = answer()
    with pytest.raises(InputError, match="input"):
        ask(gateway(script, prompt={"unjudged_input": "pass"}), asking(given))
    assert script.requests == []


@pytest.mark.parametrize("given", [[1, 2], [[1, 2], [3]]])
def test_token_ids_pass_only_where_they_may(given):
    with pytest.raises(InputError, match="unjudged_input"):
        ask(gateway(answer()), asking(given))
    found, _ = ask(gateway(answer(), prompt={"unjudged_input": "pass"}), asking(given))
    assert found.status == 200


def test_embeddings_in_base64_pass_and_nothing_else_that_is_said():
    entry = {"index": 7, "embedding": "AACAPw==", "note": "##"}
    _, data = ask(gateway(answer(entry, model="two words", note="##", usage={"x": "##"})), asking("hello"))
    assert json.loads(data) == {
        "object": "list",
        "data": [{"object": "embedding", "index": 7, "embedding": "AACAPw=="}],
        "model": "",
        "usage": {},
    }


ODD = [{"data": "##"}, {"data": [{"embedding": ["##"]}]}, {"data": [{"embedding": "two words"}]}, {"data": ["##"]}, {}]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_an_answer_that_is_no_embeddings_is_an_error(body):
    notebook = Notebook()
    script = Script(json.dumps(body).encode(), content_type="application/json")
    found, data = ask(gateway(script, observer=notebook), asking("hello"))
    assert found.status == 502
    assert b"##" not in data
    assert notebook.outcomes[0].ending is EndReason.UPSTREAM_FAILED


@pytest.mark.parametrize(("message", "told"), [("too long", "too long"), ("## ##", "answered with status 400")])
def test_what_an_upstream_says_is_wrong_reaches_the_client_if_the_guard_lets_it(message, told):
    body = {"error": {"message": message, "code": "context_length_exceeded"}}
    script = Script(json.dumps(body).encode(), status=400, content_type="application/json")
    found, data = ask(gateway(script), asking("hello"))
    error = json.loads(data)["error"]
    assert (found.status, error["code"]) == (400, "context_length_exceeded")
    assert told in error["message"]


def test_an_upstream_that_cannot_be_reached_is_an_error():
    found, _ = ask(gateway(Script(error=httpx.ConnectError("no"))), asking("hello"))
    assert found.status == 502


def test_a_client_that_leaves_ends_the_upstreams_answer():
    script, notebook = answer(), Notebook()
    script.gate, script.gate_at = asyncio.Event(), 0

    async def leave() -> None:
        gate = gateway(script, observer=notebook)
        entering = asyncio.ensure_future(gate.answer(asking("hello")).__aenter__())
        while not script.requests:
            await asyncio.sleep(0.001)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await gate.aclose()

    asyncio.run(leave())
    assert script.is_closed
    assert [outcome.ending for outcome in notebook.outcomes] == [EndReason.CLIENT_GONE]
