"""A second guard beside the service's own: over its routes, in front of an upstream, in metrics and preflight."""

import json
from contextlib import contextmanager

import pytest
from fastapi import FastAPI, Request

from streamward.errors import ConfigError
from streamward.server.preflight import problems
from streamward.server.proxy import open_gateway
from tests import loopback
from tests.gateway.scripted import CONTENT, Script, chat, reasons_in, spoken, texts_in
from tests.server.marked_guard import marked_moderator
from tests.server.services import open_service, settings

RULE = {"id": "no-prices", "text": "Do not name prices."}
BAND = [0.2, 1.0]  # the guard of these tests says 0.9999 at a `#`


class SecondGuardServer:
    """Answers in the format json-schema: violates what has an `@` in its last turn; `broken` says nothing of use."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.is_broken = False
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.answer)

    async def answer(self, request: Request) -> dict:
        body = await request.json()
        text = json.loads(body["messages"][-1]["content"])["conversation"][-1]["content"]
        self.texts.append(text)
        ids = body["response_format"]["json_schema"]["schema"]["required"]
        findings = {rule_id: {"explanation": text, "violated": "@" in text} for rule_id in ids}
        content = "I cannot say." if self.is_broken else json.dumps(findings)
        usage = {"prompt_tokens": 90, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}
        message = {"role": "assistant", "content": content}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


@contextmanager
def doubly_guarded(folder, *, script: Script | None = None, **changes):
    """A service over the guard that stops at `##`, with a second one on a loopback port."""
    second = SecondGuardServer()
    moderator = marked_moderator()
    upstreams = {} if script is None else {"up": {"base_url": "http://upstream.test/v1"}}
    with loopback.served(second.app) as address:
        guard = {"base_url": f"{address}/v1", "model": "second", "format": "json-schema"}
        opinion = {"guard": guard, "band": BAND, "min_chars": 0, **changes}
        with open_service(folder, guard=moderator._guard, upstreams=upstreams, second_opinion=opinion) as service:
            if script is not None:
                gateway = open_gateway(service.state, transports={"up": script})
                service.app.state.gateway = service.app.state.gateway._replace(gateway=gateway)
            yield service, second
    moderator.close()


def test_whole_texts_get_a_second_opinion(tmp_path):
    with doubly_guarded(tmp_path) as (service, second):
        allowed = service.post("/v1/guard", {"prompt": "Hello", "response": "One # two."}).json()
        blocked = service.post("/v1/guard", {"prompt": "Hello", "response": "One # two @."}).json()
    assert second.texts == ["One # two.", "One # two @."]
    assert allowed["decision"]["action"] == "allow"
    assert (blocked["decision"]["action"], blocked["decision"]["side"]) == ("block", "response")
    assert blocked["response"]["risk_level"] == "Unsafe"


def test_a_guarded_answer_is_cut_before_what_the_second_guard_objects_to(tmp_path):
    script = spoken("Fine. Still fine # here. ", "Not @ # fine. ", "Never.")
    with doubly_guarded(tmp_path, script=script) as (service, second):
        answer = service.post("/up/v1/chat/completions", chat())
    whole = "Fine. Still fine # here. Not @ "  # less, where both sentences were asked about together
    assert texts_in(answer.content)[CONTENT] in (whole, "Fine. Still fine ")
    assert reasons_in(answer.content) == {0: "content_filter"}
    assert second.texts


def test_a_guarded_answer_with_rules_leaves_by_sentences(tmp_path):
    script = spoken("It is a bo", "ok. It costs @ ten.", " Bye.")
    with doubly_guarded(tmp_path, script=script, band=None, rules=[{**RULE, "applies_to": ["response"]}]) as (
        service,
        _,
    ):
        answer = service.post("/up/v1/chat/completions", chat())
    assert texts_in(answer.content).get(CONTENT, "") in ("It is a book.", "")  # as above
    assert reasons_in(answer.content) == {0: "content_filter"}


def test_a_guarded_answer_that_both_allow_arrives_whole(tmp_path):
    pieces = ("One # two. ", "Three ## four", " five.")
    with doubly_guarded(tmp_path, script=spoken(*pieces)) as (service, second):
        answer = service.post("/up/v1/chat/completions", chat())
    assert texts_in(answer.content)[CONTENT] == "".join(pieces)
    assert reasons_in(answer.content) == {0: "stop"}
    assert second.texts[-1] == "".join(pieces)


def test_a_second_guard_that_cannot_be_read_blocks(tmp_path, caplog):
    with doubly_guarded(tmp_path, script=spoken("Fine. Swordfish # here. ")) as (service, second):
        second.is_broken = True
        answer = service.post("/up/v1/chat/completions", chat())
        failed = service.metric("streamward_second_opinions_total", outcome="failed")
    assert texts_in(answer.content)[CONTENT] == "Fine. Swordfish "
    assert reasons_in(answer.content) == {0: "content_filter"}
    assert failed == 1
    assert "Swordfish" not in caplog.text


def test_streams_fed_by_callers_get_second_opinions(tmp_path):
    with doubly_guarded(tmp_path) as (service, _):

        async def use(client):
            opened = (await client.post("/v1/streams", json={})).json()
            address = f"/v1/streams/{opened['stream']}"
            first = (await client.post(f"{address}/append", json={"text": "Fine. A # b", "seq": 0})).json()
            second = (await client.post(f"{address}/append", json={"text": " @ c. ", "seq": 1})).json()
            return first, second, (await client.post(f"{address}/close")).json()

        first, second, closed = service.run(use)
    assert (first["releasable_chars"], first["decision"]["action"]) == (len("Fine. A "), "allow")
    assert (second["releasable_chars"], second["decision"]["action"]) == (len("Fine. A "), "block")
    assert closed["decision"]["action"] == "block"


def test_metrics_count_cost_and_agreement(tmp_path):
    with doubly_guarded(tmp_path) as (service, _):
        service.post("/v1/guard", {"response": "One # two."})
        service.post("/v1/guard", {"response": "One ## two @."})
        service.post("/v1/guard", {"response": "Nothing."})
        text = service.get("/metrics").text
        count = service.metric
        outcomes = {
            name: count("streamward_second_opinions_total", outcome=name)
            for name in ("agreed_safe", "agreed_flagged", "only_first", "only_second", "rules_kept", "failed")
        }
        tokens = [
            count("streamward_second_opinion_tokens_total", kind=kind) for kind in ("prompt", "cached", "completion")
        ]
        assert count("streamward_second_opinion_texts_total") == 3
        assert count("streamward_second_opinion_calls_total") == 2
        assert count("streamward_second_opinion_seconds_total") > 0
    assert outcomes == {
        "agreed_safe": 1,
        "agreed_flagged": 1,
        "only_first": 0,
        "only_second": 0,
        "rules_kept": 0,
        "failed": 0,
    }
    assert tokens == [180, 120, 20]
    assert "streamward_second_opinions_total" in text


def test_a_service_without_a_second_guard_counts_nothing(tmp_path):
    with open_service(tmp_path) as service:
        assert "second_opinion" not in service.get("/metrics").text


GUARD = {"base_url": "http://second/v1", "model": "m", "format": "json-schema"}


@pytest.mark.parametrize(
    ("opinion", "told"),
    [
        ({"guard": {**GUARD, "deadline_s": 20}}, "gateway.guard_timeout_s, which is 30"),
        ({"guard": {**GUARD, "api_key_env": "NOT_SET_HERE"}}, "NOT_SET_HERE"),
        ({"guard": GUARD, "rules": [RULE, RULE]}, "two rules have the id"),
    ],
)
def test_settings_that_cannot_work_are_told_before_the_start(tmp_path, opinion, told):
    config = settings(tmp_path, second_opinion=opinion)
    assert any(told in problem for problem in problems(config))


def test_keys_are_not_shown_with_the_settings(tmp_path):
    config = settings(tmp_path, second_opinion={"guard": {**GUARD, "api_key": "open-sesame"}})
    assert "open-sesame" not in f"{config!r} {config.model_dump_json()}"
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, second_opinion={"guard": {**GUARD, "api_key": "open sesame"}})
    assert "open sesame" not in str(caught.value)
