"""What of a request the guard reads."""

import json

import pytest

from streamward.errors import InputError
from tests.gateway.scripted import (
    BAD_PROMPT,
    Script,
    ScriptedGuard,
    ask,
    call,
    chat,
    delta,
    gateway,
    reasons_in,
    texts_in,
)
from tests.gateway.test_calls import CONTENT, fine
from tests.gateway.test_release_responses import response


def test_multi_turn_prompts_reach_the_guard_as_conversations():
    guard = ScriptedGuard()
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "result"},
    ]
    ask(gateway(fine(), guard=guard), call(chat(messages=messages)))
    whole = [("system", "be kind"), ("user", "one\ntwo"), ("assistant", "f\n{}"), ("user", "result")]
    assert guard.contexts == [whole, whole[:2]]


@pytest.mark.parametrize("place", [0, 2])
def test_behind_results_of_tools_the_users_own_turn_is_judged_as_well(place):
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "wait"},
        {"role": "tool", "content": "result"},
    ]
    messages[place]["content"] = BAD_PROMPT
    answer, _ = ask(gateway(fine()), call(chat(messages=messages)))
    assert answer.status == 400


@pytest.mark.parametrize("roles", [["system"], ["user", "system"], ["user", "developer", "system"], ["assistant"]])
def test_conversations_of_any_order_are_judged(roles):
    messages = [{"role": role, "content": BAD_PROMPT if role == roles[0] else "x"} for role in roles]
    answer, _ = ask(gateway(fine()), call(chat(messages=messages)))
    assert answer.status == (400 if "assistant" not in roles else 200)


def test_an_answer_the_client_begins_is_judged_with_its_beginning():
    messages = [{"role": "user", "content": "go on"}, {"role": "assistant", "content": "so: #"}]
    _, data = ask(gateway(Script(delta(content="# more"), delta(reason="stop"))), call(chat(messages=messages)))
    assert texts_in(data).get(CONTENT, "") == ""
    assert reasons_in(data) == {0: "content_filter"}
    messages[1]["content"] = "so: ##"
    answer, _ = ask(gateway(fine()), call(chat(messages=messages)))
    assert answer.status == 400


def test_images_are_refused_unless_they_may_pass():
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]
    with pytest.raises(InputError, match="unjudged_input"):
        ask(gateway(fine()), call(chat(content=parts)))
    script = fine()
    answer, _ = ask(gateway(script, prompt={"unjudged_input": "pass"}), call(chat(content=parts)))
    assert answer.status == 200
    assert json.loads(script.requests[0].content)["messages"][0]["content"] == parts


def test_whatever_else_a_message_says_is_read_with_it():
    said = {"role": "user", "content": "one", "name": "two words", "thinking": {"a": ["three four"]}, "id": "msg_1"}
    guard = ScriptedGuard()
    ask(gateway(fine(), guard=guard), call(chat(messages=[said])))
    assert guard.contexts == [[("user", "one\ntwo words\nthree four")]]
    for name in ("name", "reasoning", "reasoning_content", "anything"):
        answer, _ = ask(
            gateway(fine()), call(chat(messages=[{"role": "user", "content": "hi", name: f" {BAD_PROMPT}"}]))
        )
        assert answer.status == 400, name


@pytest.mark.parametrize(
    ("format", "fields"),
    [
        ("chat/completions", {"documents": [{"text": "x"}]}),
        ("chat/completions", {"chat_template": "{{ 'x' }}"}),
        ("completions", {"prompt": "x", "prompt_embeds": "AAAA"}),
        ("responses", {"input": "x", "prompt": {"id": "p", "variables": {"a": "x"}}}),
    ],
)
def test_other_ways_into_a_prompt_are_refused_unless_they_may_pass(format, fields):
    body = {**chat(stream=False), **fields}
    script = fine()
    with pytest.raises(InputError, match="unjudged_input"):
        ask(gateway(script), call(body, format=format))
    assert script.requests == []
    ask(gateway(script, prompt={"unjudged_input": "pass"}), call(body, format=format))
    assert len(script.requests) == 1


def items(*given: object, guard: ScriptedGuard):
    script = Script(json.dumps(response("completed")).encode(), content_type="application/json")
    body = {"model": "m", "input": [{"role": "user", "content": "hello"}, *given]}
    return ask(gateway(script, guard=guard), call(body, format="responses"))[0]


RESULTS = {
    "mcp": {"type": "mcp_call", "name": "f", "arguments": "{}", "output": f" {BAD_PROMPT}"},
    "code": {"type": "code_interpreter_call", "code": "f()", "outputs": [{"type": "logs", "logs": f" {BAD_PROMPT}"}]},
    "files": {"type": "file_search_call", "queries": ["f"], "results": [{"file_id": "1", "text": f" {BAD_PROMPT}"}]},
    "function": {"type": "function_call_output", "call_id": "1", "output": BAD_PROMPT},
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_within_items_of_calls_are_judged_like_those_of_tools(name):
    assert items(RESULTS[name], guard=ScriptedGuard()).status == 400


def test_calls_and_thoughts_of_earlier_answers_are_context():
    guard = ScriptedGuard()
    thoughts = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "let me see"}],
        "encrypted_content": "x",
    }
    search = {"type": "web_search_call", "id": "w_1", "action": {"type": "search", "query": "two words"}}
    empty = {"type": "reasoning", "summary": [], "encrypted_content": "x y"}
    assert items(thoughts, search, empty, guard=guard).status == 200
    assert guard.contexts == [[("assistant", "let me see"), ("assistant", "two words"), ("user", "hello")]]
