"""LiteLLM's generic guardrail, with requests of the shape that LiteLLM 1.108 sends."""

import asyncio

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from streamward.schema import Message, Role
from streamward.server.app import create_app
from streamward.server.config import ServeConfig
from streamward.server.litellm_calls import Calls
from streamward.server.state import open_state
from streamward.server.store import DECISIONS
from tests.loopback import served
from tests.server.marked_guard import marked_model, marked_moderator

PATH = "/beta/litellm_basic_guardrail_api"


def serve_config(folder, **changes):
    base = {"auth": {"required": False}, "store": {"url": f"sqlite:///{folder}/service.sqlite3"}}
    return ServeConfig.parse(base | changes, source="test")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    state = open_state(serve_config(tmp_path_factory.mktemp("service")), moderator=marked_moderator())
    with served(create_app(state.config, state=state)) as url, httpx.Client(base_url=url, timeout=30) as client:
        client.state = state
        yield client
    state.close()


def request(input_type, texts, *, call_id="call-1", **more):
    """A body with everything LiteLLM sends."""
    return {
        "input_type": input_type,
        "litellm_call_id": call_id,
        "litellm_trace_id": "trace-1",
        "structured_messages": None,
        "images": None,
        "tools": None,
        "texts": texts,
        "request_data": {"user_api_key_hash": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"},
        "request_headers": {"host": "localhost:4000", "authorization": "[present]"},
        "litellm_version": "1.108.7",
        "additional_provider_specific_params": {},
        "tool_calls": None,
        "model": "assistant",
        **more,
    }


def ask(service, *arguments, **more):
    response = service.post(PATH, json=request(*arguments, **more))
    assert response.status_code == 200, response.text
    return response.json()


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def rows(service, call_id):
    with service.state.engine.connect() as connection:
        return connection.execute(select(DECISIONS).where(DECISIONS.c.stream_id == call_id)).all()


def test_a_harmless_prompt_passes(service):
    assert ask(service, "request", ["hello"], structured_messages=chat(("user", "hello"))) == {"action": "NONE"}


def test_a_bad_prompt_is_blocked_with_a_reason_that_does_not_repeat_it(service):
    answer = ask(service, "request", ["how to #"], structured_messages=chat(("user", "how to #")))
    assert answer == {"action": "BLOCKED", "blocked_reason": "Blocked by Streamward: the prompt is Unsafe, Violent"}


def test_the_last_turn_of_the_user_is_judged(service):
    def action(*turns):
        return ask(service, "request", [text for _, text in turns], structured_messages=chat(*turns))["action"]

    assert action(("system", "be kind"), ("user", "a"), ("assistant", "b"), ("user", "#")) == "BLOCKED"
    assert action(("user", "a"), ("assistant", "b"), ("tool", "#")) == "BLOCKED"


def test_parts_of_a_message_are_read(service):
    parts = [{"type": "text", "text": "a #"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    messages = [{"role": "user", "content": parts}]
    assert ask(service, "request", ["a #"], structured_messages=messages)["action"] == "BLOCKED"


def test_texts_without_messages_are_each_judged_as_a_prompt(service):
    assert ask(service, "request", ["hello", "", "a #"])["action"] == "BLOCKED"
    assert ask(service, "request", ["hello", ""]) == {"action": "NONE"}
    assert ask(service, "request", None) == {"action": "NONE"}


def test_a_whole_answer_is_judged_and_logged_once(service):
    assert ask(service, "response", ["all is well"], call_id="whole")["action"] == "NONE"
    (row,) = rows(service, "whole")
    assert (row.endpoint, row.action, row.response_chars, row.model) == ("litellm", "allow", 11, "assistant")


def test_an_answer_of_one_bad_token_is_blocked(service):
    assert ask(service, "response", ["#"], call_id="short")["action"] == "BLOCKED"


def test_a_growing_answer_is_blocked_when_the_bad_part_arrives_and_stays_blocked(service):
    text = "one two ## three four"
    actions = [ask(service, "response", [text[:end]], call_id="grows")["action"] for end in range(1, len(text) + 1)]
    assert actions == ["NONE"] * 9 + ["BLOCKED"] * (len(text) - 9)
    assert [row.action for row in rows(service, "grows")] == ["allow", "block"]


def test_what_is_over_the_threshold_is_held_back_until_it_is_known(service):
    def held(text, call_id):
        return ask(service, "response", [text], call_id=call_id).get("stream_holdback_chars")

    assert held("ab #", "held-1") == [1]
    assert [held(text, "held-2") for text in ("ab ", "ab #", "ab # c")] == [[0], [1], [0]]


def test_an_answer_that_changed_is_judged_anew(service):
    assert ask(service, "response", ["one ##"], call_id="changes-1")["action"] == "BLOCKED"
    assert ask(service, "response", ["one #"], call_id="changes-2")["action"] == "NONE"
    assert ask(service, "response", ["two ##"], call_id="changes-2")["action"] == "BLOCKED"


def test_every_choice_is_judged(service):
    assert ask(service, "response", ["fine", "good"], call_id="choices")["action"] == "NONE"
    assert ask(service, "response", ["fine, too", "good ##"], call_id="choices")["action"] == "BLOCKED"


@pytest.mark.parametrize("kind", ["function", "custom"])
def test_arguments_of_tool_calls_are_judged(service, kind):
    call = {"id": "1", "type": kind, kind: {"name": "run", "arguments": '{"a": "##"}', "input": "##"}}
    assert ask(service, "response", [], tool_calls=[call], call_id=f"tools-{kind}")["action"] == "BLOCKED"


@pytest.mark.parametrize("call", [{}, {"function": None}, {"function": "x"}, {"function": {"arguments": 1}}])
def test_tool_calls_of_no_shape_are_no_defect(service, call):
    assert ask(service, "response", ["fine"], tool_calls=[call], call_id=None)["action"] == "NONE"


def test_the_prompt_of_a_call_is_remembered_for_its_answer(service):
    ask(service, "request", ["hello"], structured_messages=chat(("user", "hello")), call_id="both")
    ask(service, "response", ["fine"], call_id="both")
    assert [(row.prompt_chars, row.response_chars) for row in rows(service, "both")] == [(5, None), (5, 4)]


def test_calls_without_an_id_are_judged_and_forgotten(service):
    for text in ("a ##", "a", "a ##"):
        assert ask(service, "response", [text], call_id=None)["action"] == ("BLOCKED" if "##" in text else "NONE")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input_type": "other"},
        {"input_type": "response", "texts": "a"},
        {"input_type": "request", "structured_messages": [{"role": "nobody", "content": "a"}]},
        {"input_type": "request", "structured_messages": [{"role": "user", "content": 3}]},
        {"input_type": "request", "texts": ["a"], "additional_provider_specific_params": {"policy": 3}},
        {"input_type": "request", "texts": ["a"], "additional_provider_specific_params": {"policy": "none-such"}},
        {"input_type": "request", "litellm_call_id": "x" * 201},
    ],
)
def test_a_malformed_request_is_refused(service, body):
    assert service.post(PATH, json=body).status_code == 400


def test_a_policy_can_be_chosen(service):
    assert (
        ask(service, "request", ["#"], additional_provider_specific_params={"policy": "loose"})["action"] == "BLOCKED"
    )


def test_a_replacement_is_the_reason_of_a_block(tmp_path):
    (tmp_path / "soft.toml").write_text(
        'name = "soft"\nreplacement = "Let us talk about bread."\n[response]\nunsafe = "replace"\n'
    )
    config = serve_config(tmp_path, policies={"folder": str(tmp_path), "default": "soft"})
    state = open_state(config, moderator=marked_moderator())
    with served(create_app(state.config, state=state)) as url, httpx.Client(base_url=url, timeout=30) as client:
        answer = ask(client, "response", ["a ##"])
    state.close()
    assert answer["action"] == "BLOCKED"
    assert answer["blocked_reason"] == "Let us talk about bread."


def test_a_guard_that_fails_blocks_and_the_failure_is_logged(tmp_path):
    model = marked_model()
    state = open_state(serve_config(tmp_path), moderator=marked_moderator(model=model))
    with served(create_app(state.config, state=state)) as url, httpx.Client(base_url=url, timeout=30) as client:
        ask(client, "response", ["fine"], call_id="fails")
        model.response_heads.get_parameter("risk.weight").data.fill_(float("nan"))
        answer = ask(client, "response", ["fine so far"], call_id="fails")
        client.state = state
        logged = [row.error for row in rows(client, "fails")]
    state.close()
    assert answer["action"] == "BLOCKED"
    assert answer["blocked_reason"] == "Streamward could not judge this (invalid_checkpoint)"
    assert logged == [None, "invalid_checkpoint"]


def test_the_end_of_a_streamed_answer_is_logged_when_the_service_stops(tmp_path):
    state = open_state(serve_config(tmp_path), moderator=marked_moderator())
    with served(create_app(state.config, state=state)) as url, httpx.Client(base_url=url, timeout=30) as client:
        for text in ("fine", "fine so", "fine so far"):
            ask(client, "response", [text], call_id="ends")
    client.state = state
    logged = [(row.response_chars, row.details["place"]) for row in rows(client, "ends")]
    state.close()
    assert logged == [(4, "text 0"), (11, "text 0")]


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="ab# \u00e9\u0928\u093f\U0001f600\x00", min_size=1, max_size=24), st.data())
def test_however_an_answer_grows_it_ends_as_the_whole_does(service, text, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=4)) | {len(text)})
    whole = ask(service, "response", [text], call_id=None)["action"]
    grown = [ask(service, "response", [text[:cut]], call_id=f"cuts {text!r} {cuts}"[:200])["action"] for cut in cuts]
    assert grown[-1] == whole or "BLOCKED" in grown  # the beginning alone may be one bad token


def test_too_many_texts_are_refused(service):
    response = service.post(PATH, json=request("response", ["a"] * 257))
    assert response.status_code == 400
    assert "max_inputs" in response.json()["error"]["message"]


def test_whoever_watches_sees_an_answer_grow(service):
    with service.state.feed.watched(None, owner="ops") as subscriber:
        for text in ("a", "a #b", "a #b ##"):
            ask(service, "response", [text], call_id="watched")
        events = [asyncio.run(subscriber.next(1)) for _ in range(5)]
    shown = {}
    for event in events:
        shown |= {event.start + place: token.risk_level for place, token in enumerate(event.tokens)}
    assert [event.kind for event in events] == ["tokens", "decided", "tokens", "tokens", "decided"]
    assert {event.stream_id for event in events} == {"watched"}
    assert [level.value for level in shown.values()].count("Unsafe") == 3
    assert events[-1].action == "block"


def test_another_tenants_call_id_is_another_call():
    calls = Calls(max_open=4, idle_s=60)
    assert calls.get("one", "id") is calls.get("one", "id")
    assert calls.get("one", "id") is not calls.get("two", "id")


def test_idle_calls_are_let_go_and_so_is_the_oldest_where_there_is_no_room():
    now = [0.0]
    calls = Calls(max_open=2, idle_s=60, clock=lambda: now[0])
    first = calls.get("one", "1")
    first.messages = (Message(Role.USER, "hello"),)
    now[0] = 30.0
    second, third = calls.get("one", "2"), calls.get("one", "3")
    assert calls.take_idle() == [first]
    now[0] = 91.0
    calls.get("one", "3")
    assert calls.take_idle() == [second]
    assert calls.take_idle(every=True) == [third]
    assert len(calls) == 0


def test_a_call_being_worked_on_is_not_let_go():
    async def hold():
        calls = Calls(max_open=1, idle_s=0.0)
        call = calls.get("one", "1")
        async with call.lock:
            with pytest.raises(Exception, match="being judged"):
                calls.get("one", "2")
            assert calls.take_idle() == []
        return calls.take_idle() == [call]

    assert asyncio.run(hold())


MASKING = """
name = "masking"

[[detectors]]
type = "email"
style = "reversible"

[[detectors]]
type = "words"
id = "names"
words = ["zeus"]
action = "block"
"""


@pytest.fixture(scope="module")
def masking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masking")
    (folder / "policies").mkdir()
    (folder / "policies" / "masking.toml").write_text(MASKING)
    config = serve_config(folder, policies={"folder": str(folder / "policies"), "default": "masking"})
    state = open_state(config, moderator=marked_moderator())
    with served(create_app(state.config, state=state)) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
    state.close()


def emitted(said, answer):
    """Return what LiteLLM's mode incremental_diff has sent by now, as its release 1.108.7 computes it."""
    text = answer.get("texts", [said])[0]
    return text[: len(text) - answer["stream_holdback_chars"][0]]


@pytest.mark.parametrize("size", [1, 5, 13])
def test_a_growing_answer_is_masked_and_what_is_shown_only_grows(masking, size):
    whole = "Write to jo@example.com, and jane.doe@example.org too."
    shown, last = "", {}
    for end in [*range(size, len(whole), size), len(whole)]:
        last = ask(masking, "response", [whole[:end]], call_id=f"grow-{size}")
        now = emitted(whole[:end], last)
        assert now.startswith(shown)
        assert "jo@" not in now and "jane" not in now
        shown = now
    assert last["action"] == "GUARDRAIL_INTERVENED"
    assert last["texts"] == ["Write to [EMAIL], and [EMAIL] too."]  # shown when LiteLLM sees the end


def test_a_prompt_is_masked_and_its_placeholders_are_restored_in_the_answer(masking):
    asked = ask(masking, "request", ["I am jo@example.com."], call_id="restore")
    assert (asked["action"], asked["texts"]) == ("GUARDRAIL_INTERVENED", ["I am [EMAIL_1]."])
    answer = ask(masking, "response", ["Hello [EMAIL_1], write to me@example.com."], call_id="restore")
    assert answer["texts"] == ["Hello jo@example.com, write to [EMAIL]."]


def test_a_listed_word_blocks_prompts_and_growing_answers(masking):
    asked = ask(masking, "request", ["hail zeus"], call_id="listed-1")
    assert asked["action"] == "BLOCKED"
    assert asked["blocked_reason"] == "Blocked by Streamward: the detector names found something in the prompt"
    assert ask(masking, "response", ["Hail Ze"], call_id="listed-2")["action"] == "NONE"
    assert ask(masking, "response", ["Hail Zeus !"], call_id="listed-2")["action"] == "BLOCKED"
    assert ask(masking, "response", ["Hail Zeus ! Again"], call_id="listed-2")["action"] == "BLOCKED"


def test_text_without_findings_is_left_to_litellm_as_it_is(masking):
    answer = ask(masking, "response", ["Bread needs flour."], call_id="plain")
    assert answer["action"] == "NONE"
    assert "texts" not in answer
