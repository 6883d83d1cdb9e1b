"""Verdicts in the words of others: the request's `moderation`, Azure's annotations."""

import json

import pytest

from streamward.errors import InputError
from streamward.policy import Policy
from tests.gateway.scripted import (
    BAD_PROMPT,
    CONTENT,
    DONE,
    Script,
    ask,
    call,
    chat,
    delta,
    document,
    events_in,
    gateway,
    reasons_in,
    texts_in,
)

FLAGGING = Policy.parse({"name": "f", "prompt": {"unsafe": "flag"}, "response": {"unsafe": "flag"}}, source="test")


def bad() -> Script:
    return Script(delta(content="one ## two"), delta(reason="stop"), DONE)


def asking(side: str, mode: str) -> dict[str, object]:
    return {"moderation": {"model": "omni-moderation-latest", "policy": {side: {"mode": mode}}}}


def test_the_field_moderation_is_not_sent_on():
    script = bad()
    ask(gateway(script), call(chat(moderation={"model": "omni-moderation-latest"})))
    assert "moderation" not in json.loads(script.requests[0].content)


def test_a_request_may_ask_for_a_block_where_the_policy_only_flags():
    _, data = ask(gateway(bad()), call(chat(), policy=FLAGGING))
    assert texts_in(data)[CONTENT] == "one ## two"
    _, data = ask(gateway(bad()), call(chat(**asking("output", "block")), policy=FLAGGING))
    assert texts_in(data)[CONTENT] == "one "
    answer, _ = ask(gateway(bad()), call(chat(content=BAD_PROMPT, **asking("input", "block")), policy=FLAGGING))
    assert answer.status == 400


def test_a_request_may_not_ask_for_scores_only_where_the_policy_blocks():
    for side in ("input", "output"):
        with pytest.raises(InputError, match="may_relax"):
            ask(gateway(bad()), call(chat(**asking(side, "score"))))


def test_a_request_may_relax_the_policy_where_the_operator_lets_it():
    _, data = ask(gateway(bad(), prompt={"may_relax": True}), call(chat(**asking("output", "score"))))
    assert texts_in(data)[CONTENT] == "one ## two"
    assert reasons_in(data) == {0: "stop"}
    assert events_in(data)[-1]["moderation"]["output"]["results"][0]["flagged"] is True


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_request_gets_the_results_of_both_sides(is_stream):
    script = bad() if is_stream else document("one ## two")
    asked = chat(stream=is_stream, moderation={"model": "omni-moderation-latest"})
    _, data = ask(gateway(script), call(asked))
    found = (events_in(data)[-1] if is_stream else json.loads(data))["moderation"]
    assert found["input"]["type"] == "moderation_results"
    assert found["input"]["results"][0]["type"] == "moderation_result"
    assert (found["input"]["results"][0]["flagged"], found["output"]["results"][0]["flagged"]) == (False, True)


def test_in_responses_the_last_event_has_the_results():
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "one"}]}
    body = {"id": "r", "object": "response", "status": "completed", "output": [item]}
    script = Script(json.dumps(body).encode(), content_type="application/json")
    asked = {"model": "m", "input": "hello", "moderation": {"model": "x"}}
    _, data = ask(gateway(script), call(asked, format="responses"))
    found = json.loads(data)["moderation"]
    assert (found["input"]["type"], found["output"]["flagged"]) == ("moderation_result", False)


MALFORMED = ["x", {"policy": []}, {"policy": {"input": {"mode": "off"}}}, {"policy": {"middle": {}}}, {"model": 3}]


@pytest.mark.parametrize("given", MALFORMED)
def test_a_malformed_field_is_refused(given):
    with pytest.raises(InputError, match="moderation"):
        ask(gateway(bad()), call(chat(moderation=given)))


@pytest.mark.parametrize("is_stream", [True, False])
def test_annotations_stand_where_azure_puts_them(is_stream):
    script = bad() if is_stream else document("one ## two")
    _, data = ask(gateway(script), call(chat(stream=is_stream), has_annotations=True))
    bodies = events_in(data) if is_stream else [json.loads(data)]
    (prompt,) = bodies[0]["prompt_filter_results"]
    results = bodies[-1]["choices"][0]["content_filter_results"]
    assert prompt["content_filter_results"]["jailbreak"] == {"filtered": False, "detected": False}
    assert results["violence"] == {"filtered": True, "severity": "high"}
    assert results["hate"] == {"filtered": False, "severity": "safe"}
    assert results["streamward"] == {"filtered": True, "risk_level": "Unsafe", "category": "Violent"}


def test_without_being_asked_nothing_is_added():
    _, data = ask(gateway(document("fine")), call(chat(stream=False)))
    assert json.loads(data) == {"choices": [{"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}]}
