"""One choice has one ending, whatever comes late, and whoever is told of it is told the same."""

import pytest

from streamward.gateway.call_record import EndReason
from streamward.schema import Action
from tests.gateway.scripted import (
    CONTENT,
    DONE,
    Notebook,
    Script,
    ask,
    call,
    chat,
    delta,
    event,
    events_in,
    gateway,
    texts_in,
)
from tests.gateway.test_release_responses import message, response, spoken
from tests.gateway.test_release_responses import request as response_request

USAGE = {"total_tokens": 3}
LATE = {
    "a note without choices": event({"choices": [], "note": "a ## b"}),
    "a note beside usage": event({"choices": [], "note": "a ## b", "usage": USAGE}),
    "a note in the choice": event({"choices": [{"index": 0, "delta": {}, "note": "a ## b"}]}),
    "text of the choice": delta(content="a ## b"),
    "a reason that is none": delta(reason="## because"),
    "text with another reason": delta(content="a ## b", reason="stop"),
}
HARMLESS = {
    "usage": event({"choices": [], "usage": USAGE}),
    "usage in the choice": event({"choices": [{"index": 0, "delta": {"content": ""}}], "usage": USAGE}),
    "a note": event({"choices": [], "note": "fine", "usage": USAGE}),
    "another stop": delta(reason="stop") + event({"choices": [], "usage": USAGE}),
    "another reason": delta(reason="length") + event({"choices": [], "usage": USAGE}),
    "text": delta(content=", or so") + event({"choices": [], "usage": USAGE}),
    "text with a stop": delta(content=", or so", reason="length") + event({"choices": [], "usage": USAGE}),
}


def endings_in(data: bytes) -> list[tuple[int, str]]:
    """Choice and reason, as often as the client gets one."""
    choices = [choice for body in events_in(data) for choice in body.get("choices", [])]
    return [(choice["index"], choice["finish_reason"]) for choice in choices if choice.get("finish_reason")]


@pytest.mark.parametrize("mode", ["checked", "audit"])
@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("size", [1, 3])
def test_flagged_text_behind_the_end_changes_the_end_before_it_leaves(name, mode, size):
    parts = [delta(content="hi"), delta(reason="stop"), LATE[name], DONE]
    script = Script(*parts) if size == 1 else Script(b"".join(parts))
    notebook = Notebook()
    _, data = ask(gateway(script, observer=notebook, release={"mode": mode}), call(chat()))
    expected = "stop" if name == "a reason that is none" else "content_filter"
    assert endings_in(data) == [(0, expected)]
    (outcome,) = notebook.outcomes
    assert outcome.ending is (EndReason.COMPLETE if expected == "stop" else EndReason.RESPONSE_BLOCKED)
    assert outcome.parts[0].decision.action is (Action.ALLOW if expected == "stop" else Action.BLOCK)
    assert data.endswith(DONE)
    if mode == "checked":
        assert b"##" not in data
        assert texts_in(data)[CONTENT].startswith("hi")


@pytest.mark.parametrize("name", HARMLESS)
def test_what_comes_behind_the_end_leaves_the_first_reason_the_only_one(name):
    _, data = ask(gateway(Script(delta(content="hi"), delta(reason="stop"), HARMLESS[name], DONE)), call(chat()))
    assert endings_in(data) == [(0, "stop")]
    assert [body["usage"] for body in events_in(data) if body.get("usage")] == [USAGE]
    assert texts_in(data)[CONTENT] == ("hi, or so" if "text" in name else "hi")


def test_the_reason_comes_behind_the_last_text():
    parts = [delta(content=word, reason="stop") for word in ("one ", "two ", "three")]
    _, data = ask(gateway(Script(*parts, DONE)), call(chat()))
    assert [choice["finish_reason"] for body in events_in(data) for choice in body["choices"]] == [None, None, "stop"]
    assert texts_in(data)[CONTENT] == "one two three"


def test_a_reason_in_words_of_its_own_moves_with_the_end():
    parts = [delta(content="one ", reason="had enough"), delta(content="two")]
    for script in (Script(*parts, DONE), Script(b"".join(parts) + DONE)):
        _, data = ask(gateway(script), call(chat()))
        assert endings_in(data) == [(0, "had enough")]
        assert texts_in(data)[CONTENT] == "one two"


def test_a_choice_that_is_stopped_keeps_its_end_when_another_goes_on():
    parts = [delta(0, content="a ##"), delta(1, content="b"), delta(0, reason="stop"), delta(0, content="c")]
    _, data = ask(gateway(Script(*parts, delta(1, reason="stop"), DONE)), call(chat(n=2)))
    assert sorted(endings_in(data)) == [(0, "content_filter"), (1, "stop")]


@pytest.mark.parametrize("is_one", [False, True])
def test_a_response_ends_once(is_one):
    end = [body for body in spoken("fine", [2]) if body["type"] == "response.completed"]
    late = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "## late"}
    parts = [event(body) for body in [*spoken("fine", [2]), late, *end]]
    parts.append(event({"type": "response.failed", "response": response("failed", [message("fine")])}))
    parts.append(event({"type": "error", "code": "x", "message": "late"}))
    script = Script(b"".join(parts)) if is_one else Script(*parts)
    _, data = ask(gateway(script), call(response_request(), format="responses"))
    assert [body["type"] for body in events_in(data)][-1] == "response.completed"
    assert [body["type"] for body in events_in(data)].count("response.completed") == 1
    assert b"late" not in data
