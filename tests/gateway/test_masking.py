"""A policy's detectors in the gateway: requests are masked before they are sent, answers before they leave."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamward.gateway.config import GatewayLimits
from streamward.policy import Policy
from streamward.schema import Action
from tests.detectors.planted import TYPES, planted_texts
from tests.detectors.planted import cut as in_pieces
from tests.gateway.scripted import (
    CONTENT,
    DONE,
    Notebook,
    Script,
    ask,
    ask_in_two,
    call,
    chat,
    delta,
    event,
    events_in,
    gateway,
    reasons_in,
    texts_in,
)
from tests.gateway.test_release_chat import cut
from tests.gateway.test_release_responses import message, request, response, spoken

STEPWISE = GatewayLimits(max_ahead_bytes=1)
"""The upstream waits for the judge, so that chunks leave one by one."""
ARGUMENTS = (0, "tool_calls", 0, "function", "arguments")
SEAMS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def policy(*tables: dict, types=TYPES, **changes) -> Policy:
    values = [*tables, *({"type": each, **changes} for each in types)]
    return Policy.parse({"name": "masking", "detectors": values}, source="test")


def document(text: str, **fields) -> Script:
    message = {"role": "assistant", "content": text, **fields}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return Script(json.dumps(body).encode(), content_type="application/json")


def streamed(text: str, sizes, *, field=lambda piece: {"content": piece}) -> Script:
    events = [
        delta(role="assistant"),
        *(delta(**field(piece)) for piece in in_pieces(text, sizes)),
        delta(reason="stop"),
    ]
    return Script(*events, DONE)


def sent(script: Script) -> dict:
    return json.loads(script.requests[0].content)


@SEAMS
@given(text=planted_texts(), sizes=SIZES, cuts=SIZES)
def test_no_digit_of_an_item_leaves_in_a_stream(text: str, sizes: list[int], cuts: list[int]) -> None:
    events = b"".join([*(delta(content=piece) for piece in in_pieces(text, sizes)), delta(reason="stop"), DONE])
    script = Script(*cut(events, [20 * size for size in cuts]))
    _, data = ask(gateway(script, limits=STEPWISE), call(chat(), policy=policy()))
    _whole, body = ask(gateway(document(text)), call(chat(stream=False), policy=policy()))
    masked = texts_in(data)[CONTENT]
    assert not any(char.isdigit() for char in masked)
    assert masked == json.loads(body)["choices"][0]["message"]["content"]
    assert reasons_in(data) == {0: "stop"}


@SEAMS
@given(text=planted_texts(), sizes=SIZES)
def test_no_digit_of_an_item_leaves_in_a_response(text: str, sizes: list[int]) -> None:
    numbered = [{**body, "sequence_number": number} for number, body in enumerate(spoken(text, sizes))]
    script = Script(*map(event, numbered))
    _, data = ask(gateway(script, limits=STEPWISE), call(request(), format="responses", policy=policy()))
    bodies = events_in(data)
    said = "".join(body["delta"] for body in bodies if body["type"] == "response.output_text.delta")
    assert not any(char.isdigit() for char in said)
    assert [body["text"] for body in bodies if body["type"] == "response.output_text.done"] == [said]
    assert bodies[-1]["response"]["output"][0]["content"][0]["text"] == said


def test_text_behind_which_nothing_can_follow_is_not_held() -> None:
    script = streamward_script("I wrote to him. ", "Mail jo@exa", "mple.com now")
    early, _ = ask_in_two(gateway(script), script, call(chat(), policy=policy()), at=2)
    assert texts_in(early)[CONTENT] == "I wrote to him. "


def streamward_script(*pieces: str) -> Script:
    return Script(delta(role="assistant"), *(delta(content=piece) for piece in pieces), delta(reason="stop"), DONE)


def test_arguments_of_a_call_stay_json_in_a_stream() -> None:
    source = json.dumps({"to": "jo@example.com", "card": 4111111111111111, "note": "say\n+49 170 1234567"})
    call_of = lambda piece: {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}  # noqa: E731
    _, data = ask(gateway(streamed(source, [3, 5], field=call_of)), call(chat(), policy=policy()))
    assert json.loads(texts_in(data)[ARGUMENTS]) == {"to": "[EMAIL]", "card": "[CARD]", "note": "say\n[PHONE]"}


def test_a_text_is_not_held_once_a_call_begins() -> None:
    pieces = [delta(content="see 41"), delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a": "b"}'}}])]
    script = Script(*pieces, delta(reason="tool_calls"), DONE)
    early, _ = ask_in_two(gateway(script), script, call(chat(), policy=policy()), at=2)
    assert texts_in(early) == {CONTENT: "see 41", ARGUMENTS: '{"a": "b"}'}


def test_log_probabilities_do_not_spell_what_is_masked() -> None:
    entries = [{"token": token, "logprob": -0.1, "bytes": None} for token in ("jo@", "example.com")]
    choice = {
        "index": 0,
        "delta": {"content": "jo@example.com"},
        "finish_reason": None,
        "logprobs": {"content": entries},
    }
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    _, data = ask(gateway(Script(event(body), delta(reason="stop"), DONE)), call(chat(), policy=policy()))
    assert b"example" not in data


def test_a_string_in_a_field_that_nobody_knows_is_masked() -> None:
    _, data = ask(gateway(Script(delta(content="hi", extra="jo@example.com"), DONE)), call(chat(), policy=policy()))
    assert b"example" not in data


@pytest.mark.parametrize("mode", [{"mode": "checked"}, {"mode": "hold", "hold_tokens": 4}])
def test_a_finding_to_block_ends_the_answer_before_it(mode: dict) -> None:
    notebook = Notebook()
    script = streamed("The name is Zeus, he said.", [4])
    rules = policy({"type": "words", "words": ["zeus"], "action": "block", "id": "names"}, types=())
    _, data = ask(gateway(script, observer=notebook, release=mode), call(chat(), policy=rules))
    assert "The name is ".startswith(texts_in(data)[CONTENT])
    assert mode["mode"] == "hold" or texts_in(data)[CONTENT] == "The name is "
    assert reasons_in(data) == {0: "content_filter"}
    assert (notebook.outcomes[0].decision.action, notebook.outcomes[0].decision.detector) == (Action.BLOCK, "names")


def test_a_finding_to_flag_is_told_and_changes_nothing() -> None:
    notebook = Notebook()
    rules = policy(types=("email",), action="flag")
    _, body = ask(gateway(document("to jo@example.com"), observer=notebook), call(chat(stream=False), policy=rules))
    assert json.loads(body)["choices"][0]["message"]["content"] == "to jo@example.com"
    assert (notebook.outcomes[0].decision.action, notebook.outcomes[0].decision.detector) == (Action.FLAG, "email")


def test_a_document_with_a_finding_to_block_ends_before_it() -> None:
    rules = policy({"type": "words", "words": ["zeus"], "action": "block"}, types=())
    _, body = ask(gateway(document("The name is Zeus.")), call(chat(stream=False), policy=rules))
    choice = json.loads(body)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("The name is ", "content_filter")


def test_what_is_left_of_a_chunk_that_is_cut_is_masked() -> None:
    rules = policy({"type": "words", "words": ["zeus"], "action": "block"}, types=("email",))
    _, body = ask(gateway(document("Mail jo@example.com to Zeus.")), call(chat(stream=False), policy=rules))
    assert json.loads(body)["choices"][0]["message"]["content"] == "Mail [EMAIL] to "
    _, data = ask(gateway(streamed("Mail jo@example.com to Zeus.", [100])), call(chat(), policy=rules))
    assert texts_in(data)[CONTENT] == "Mail [EMAIL] to "


def test_a_request_is_masked_before_it_is_sent() -> None:
    script = document("fine")
    arguments = json.dumps({"mail": "jo@example.com"})
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "I am jo@example.com"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "card 4111 1111 1111 1111"},
    ]
    ask(gateway(script), call({"model": "m", "messages": messages, "user": "jo@example.com"}, policy=policy()))
    told = sent(script)["messages"]
    assert told[0]["content"][0]["text"] == "I am [EMAIL]"
    assert told[1]["tool_calls"][0] == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"mail": "[EMAIL]"}'},
    }
    assert told[2]["content"] == "card [CARD]"


def test_items_of_a_request_for_a_response_are_masked() -> None:
    script = Script(json.dumps(response("completed", [message("ok")])).encode(), content_type="application/json")
    items = [
        {"role": "user", "content": "jo@example.com"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"m": "jo@example.com"}'},
        {"type": "function_call_output", "call_id": "c", "output": "jo@example.com"},
    ]
    body = request(stream=False, input=items, instructions="write to jo@example.com")
    ask(gateway(script), call(body, format="responses", policy=policy()))
    assert b"example" not in script.requests[0].content


@pytest.mark.parametrize(("target", "is_masked"), [("prompt", [True, False]), ("tool_result", [False, True])])
def test_a_detector_reads_what_it_applies_to(target: str, is_masked: list[bool]) -> None:
    script = document("jo@example.com")
    messages = [{"role": "user", "content": "jo@example.com"}, {"role": "tool", "content": "jo@example.com"}]
    _, body = ask(
        gateway(script),
        call({"model": "m", "messages": messages}, policy=policy(types=("email",), applies_to=[target])),
    )
    assert [each["content"] == "[EMAIL]" for each in sent(script)["messages"]] == is_masked
    assert json.loads(body)["choices"][0]["message"]["content"] == "jo@example.com"


@pytest.mark.parametrize("sizes", [[1], [3], [100]])
def test_what_was_masked_reversibly_is_restored_in_the_answer(sizes: list[int]) -> None:
    rules = policy(types=("email",), style="reversible")
    script = streamed("I wrote to [EMAIL_2], not to [EMAIL_1] or [EMAIL_3] or eve@example.com.", sizes)
    _, data = ask(gateway(script), call(chat(content="al@example.com, bo@example.com, al@example.com"), policy=rules))
    assert sent(script)["messages"][0]["content"] == "[EMAIL_1], [EMAIL_2], [EMAIL_1]"
    assert texts_in(data)[CONTENT] == "I wrote to bo@example.com, not to al@example.com or [EMAIL_3] or [EMAIL]."


def test_a_prompt_with_a_finding_to_block_is_refused_and_never_sent() -> None:
    script, notebook = document("fine"), Notebook()
    answer, body = ask(
        gateway(script, observer=notebook), call(chat(content="jo@example.com"), policy=policy(action="block"))
    )
    assert (answer.status, json.loads(body)["error"]["code"]) == (400, "content_filter")
    assert script.requests == []
    assert notebook.outcomes[0].decision.detector == "email"


def test_texts_to_embed_are_masked() -> None:
    script = Script(b'{"object": "list", "data": [], "model": "m"}', content_type="application/json")
    ask(gateway(script), call({"model": "m", "input": ["jo@example.com"]}, format="embeddings", policy=policy()))
    assert sent(script)["input"] == ["[EMAIL]"]
