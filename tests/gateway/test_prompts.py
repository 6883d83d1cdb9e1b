"""What of a request the guard reads."""

import json

import pytest

from streamward.errors import InputError
from tests.gateway.scripted import (
    BAD_PROMPT,
    CONTENT,
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
from tests.gateway.test_calls import fine
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


UNREAD = [
    {"type": "input_image", "file_id": "file_1"},
    {"type": "image", "source": {"type": "base64", "data": "iVBOR"}},
    {"type": "file", "file": {"file_id": "file_1"}},
    {"type": "video_url", "video_url": {"url": "https://x.test/a.mp4"}},
    {"type": "picture", "picture": "https://x.test/a.png"},
    {"type": "other", "blob": "data:image/png;base64,iVBOR"},
    {"type": "other", "blob": "iVBOR" * 100},
    {"type": "tool_result", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]},
]


@pytest.mark.parametrize("part", UNREAD, ids=range(len(UNREAD)))
def test_whatever_is_no_text_is_refused_unless_it_may_pass(part):
    with pytest.raises(InputError, match="unjudged_input"):
        ask(gateway(fine()), call(chat(content=[part])))
    script = fine()
    ask(gateway(script, prompt={"unjudged_input": "pass"}), call(chat(content=[part])))
    assert json.loads(script.requests[0].content)["messages"][0]["content"] == [part]


READ = {
    "thinking": [{"type": "thinking", "thinking": [{"type": "text", "text": "said"}]}],
    "thinking as a string": [{"type": "thinking", "thinking": "said"}],
    "reasoning": [{"type": "reasoning_text", "text": "said"}],
    "a string": ["said"],
    "no type": [{"text": "said"}],
    "a result": [{"type": "tool_result", "tool_use_id": "t_1", "content": "said"}],
    "parts of a result": [{"type": "tool_result", "content": [{"type": "text", "text": "said"}]}],
    "a call": [{"type": "tool_use", "name": "said", "input": {}}],
    "its arguments": [{"type": "tool_use", "name": "f", "input": {"a": "said"}}],
    "beside a text": [{"type": "text", "text": "hi", "note": "said it"}],
    "an unknown part": [{"type": "outcome", "stdout": "said it"}],
}


@pytest.mark.parametrize("role", ["user", "tool", "developer"])
@pytest.mark.parametrize("name", READ)
def test_parts_of_a_message_are_read_whatever_they_are_called(name, role):
    guard, script = ScriptedGuard(), fine()
    messages = [{"role": role, "content": READ[name]}, {"role": "user", "content": "and then?"}]
    answer, _ = ask(gateway(script, guard=guard), call(chat(messages=messages)))
    assert answer.status == 200
    assert json.loads(script.requests[0].content)["messages"] == messages
    if role != "assistant" or ("thinking" not in name and name != "reasoning"):
        assert "said" in guard.contexts[0][0][1]


def test_a_signature_that_was_not_sealed_here_is_neither_read_nor_passed_on():
    guard, script = ScriptedGuard(), fine()
    part = {"type": "thinking", "thinking": "said", "signature": "AAAA" * 200}
    messages = [{"role": "user", "content": [part]}, {"role": "user", "content": "and then?"}]
    answer, _ = ask(gateway(script, guard=guard), call(chat(messages=messages)))
    assert answer.status == 200
    assert "AAAA" not in str(guard.contexts)
    assert "AAAA" not in script.requests[0].content.decode()


def test_what_an_assistant_thought_is_read_as_its_reasoning():
    seen = []
    guard = ScriptedGuard()

    def open_guard(messages, policy):
        seen.extend(messages)
        return guard.open(messages, policy)

    thoughts = [
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "one"}]}, {"text": "a"}]},
        {"content": "a", "reasoning_content": "one"},
        {"content": "a", "reasoning": "one"},
        {"content": "a", "reasoning": {"steps": ["one two"]}},
    ]  # fmt: skip
    for said in thoughts:
        messages = [{"role": "assistant", **said}, {"role": "user", "content": "and then?"}]
        ask(gateway(fine(), open_guard=open_guard), call(chat(messages=messages)))
    assert [turn.content for turn in seen if turn.role == "assistant"] == ["a"] * 4
    assert [turn.reasoning for turn in seen if turn.role == "assistant"] == ["one", "one", "one", "one two"]


@pytest.mark.parametrize("holder", ["tool_calls", "function_call", "custom"])
@pytest.mark.parametrize("arguments", [{"city": "the #"}, ["the #"], '{"city": "the #"}'])
def test_arguments_of_calls_are_read_as_objects_too(holder, arguments):
    called = {"name": "f", "arguments": arguments}
    if holder == "custom":
        called = {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": arguments}}]}
    elif holder == "tool_calls":
        called = {"tool_calls": [{"id": "c", "function": called}]}
    else:
        called = {"function_call": called}
    guard, script = ScriptedGuard(), fine()
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, **called},
        {"role": "tool", "content": "18"},
    ]
    ask(gateway(script, guard=guard), call(chat(messages=messages)))
    assert "the #" in guard.contexts[0][1][1]
    assert json.loads(script.requests[0].content)["messages"] == messages


def test_results_of_tools_are_read_as_objects_too():
    guard = ScriptedGuard()
    messages = [{"role": "user", "content": "hello"}, {"role": "tool", "content": {"city": "Rome", "sky": "the #"}}]
    answer, _ = ask(gateway(fine(), guard=guard), call(chat(messages=messages)))
    assert answer.status == 200
    assert guard.contexts[0][1] == ("user", '{"city":"Rome","sky":"the #"}')


def test_text_that_looks_like_the_address_of_data_is_read():
    for text in (f"data: {BAD_PROMPT}", f"data:text/plain {BAD_PROMPT}"):
        answer, _ = ask(gateway(fine()), call(chat(messages=[{"role": "user", "content": "hi", "note": text}])))
        assert answer.status == 400


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
    empty = {"type": "reasoning", "summary": [], "encrypted_content": "xy=="}
    assert items(thoughts, search, empty, guard=guard).status == 200
    assert guard.contexts == [[("assistant", "let me see"), ("assistant", "two words"), ("user", "hello")]]


SILENT = [
    {"type": "compaction_trigger"},
    {"type": "compaction", "encrypted_content": "gAAAA" * 300},
    {"type": "item_reference", "id": "rs_1"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA" * 300},
    {"type": "something_new", "id": "x_1", "count": 3},
]


@pytest.mark.parametrize("item", SILENT, ids=lambda item: item["type"])
def test_items_without_text_pass(item):
    guard = ScriptedGuard()
    assert items(item, guard=guard).status == 200
    assert guard.contexts == [[("user", "hello")]]


SPEAKING = {
    "tools": {"type": "mcp_list_tools", "server_label": "docs", "tools": [
        {"name": "f", "description": f" {BAD_PROMPT}", "input_schema": {"$schema": "http://x.test/s#"}}]},
    "more tools": {"type": "additional_tools", "role": "user", "tools": [{"description": f" {BAD_PROMPT}"}]},
    "an approval": {"type": "mcp_approval_response", "approve": False, "reason": f" {BAD_PROMPT}"},
    "a text": {"type": "input_text", "text": BAD_PROMPT},
    "a shell": {"type": "shell_call_output", "output": [{"stdout": f" {BAD_PROMPT}", "outcome": {"type": "exit"}}]},
    "a search": {"type": "tool_search_output", "tools": [{"name": "f", "description": f" {BAD_PROMPT}"}]},
    "something new": {"type": "something_new", "note": f" {BAD_PROMPT}"},
}  # fmt: skip


@pytest.mark.parametrize("name", SPEAKING)
def test_items_with_text_are_judged_whatever_they_are(name):
    assert items(SPEAKING[name], guard=ScriptedGuard()).status == 400


def test_calls_are_context_with_all_that_they_say():
    guard = ScriptedGuard()
    shell = {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls -l", "pwd"]}}
    asked = {"type": "mcp_approval_request", "name": "f", "arguments": {"a": "b c"}, "server_label": "docs"}
    assert items(shell, asked, guard=guard).status == 200
    assert guard.contexts == [[("assistant", "ls -l"), ("assistant", 'f\n{"a":"b c"}'), ("user", "hello")]]


MEDIA = [
    {"type": "input_image", "image_url": "https://x.test/a.png"},
    {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "data:,AA"}},
    {"type": "image_generation_call", "id": "ig_1", "result": "iVBOR" * 100},
]  # fmt: skip


@pytest.mark.parametrize("item", MEDIA, ids=lambda item: item["type"])
def test_items_of_data_are_refused_unless_they_may_pass(item):
    with pytest.raises(InputError, match="unjudged_input"):
        items(item, guard=ScriptedGuard())


@pytest.mark.parametrize("given", [{"input": []}, {}])
def test_a_response_that_goes_on_needs_no_input(given):
    script = Script(json.dumps(response("completed")).encode(), content_type="application/json")
    body = {"model": "m", **given}
    with pytest.raises(InputError, match="input"):
        ask(gateway(script), call(body, format="responses"))
    answer, _ = ask(gateway(script), call({**body, "previous_response_id": "resp_1"}, format="responses"))
    assert answer.status == 200
