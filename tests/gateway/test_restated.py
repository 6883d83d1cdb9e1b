"""Strings that say again what was said: read once, and never ahead of what was judged."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.gateway.scripted import (
    CONTENT,
    DONE,
    Script,
    ScriptedGuard,
    ask,
    call,
    chat,
    delta,
    event,
    events_in,
    gateway,
    texts_in,
)
from tests.gateway.test_endings import endings_in
from tests.gateway.test_release_responses import AT, message, request, response, spoken

WORDS = [f"word{index % 7} " for index in range(400)]


class CountingGuard(ScriptedGuard):
    """Counts the characters that it is given to judge."""

    num_chars = 0

    def _stream(self, messages, policy):
        stream = super()._stream(messages, policy)
        feed = stream.feed_coroutine

        def counted(piece):
            self.num_chars += len(piece)
            return feed(piece)

        stream.feed_coroutine = counted
        return stream


def chunk(piece: str, so_far: str, place: str) -> bytes:
    """An event that says a piece, and at a place of its own all so far."""
    choice: dict[str, Any] = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
    body: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    match place:
        case "message":
            choice["message"] = {"role": "assistant", "content": so_far}
        case "message, first":
            body["choices"] = [{"index": 0, "message": {"role": "assistant", "content": so_far}, **choice}]
        case "delta":
            choice["delta"]["so_far"] = [{"text": so_far}]
        case "envelope":
            body["snapshot"] = so_far
        case "another text":
            choice["message"] = {"content": so_far.upper()}
        case "alone":
            choice["delta"] = {"text_so_far": so_far}
    return event(body)


PLACES = ["message", "message, first", "delta", "envelope", "another text", "alone"]


def grown(words: list[str], place: str) -> list[bytes]:
    return [chunk(word, "".join(words[: index + 1]), place) for index, word in enumerate(words)]


def cost(*parts: bytes, **fields) -> tuple[int, bytes]:
    guard = CountingGuard()
    _, data = ask(gateway(Script(*parts), guard=guard), call(**fields))
    return guard.num_chars, data


@pytest.mark.parametrize("place", PLACES)
def test_a_string_that_extends_itself_costs_what_its_text_costs(place):
    for num_words in (50, 400):
        words = WORDS[:num_words]
        sent = grown(words, place)
        num_chars, data = cost(*sent, delta(reason="stop"), DONE, body=chat())
        assert num_chars < 2 * len("".join(words)) + 1000
        assert events_in(data)[:num_words] == events_in(b"".join(sent))
        assert endings_in(data) == [(0, "stop")]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("num_words", [1, 3, 100])
def test_neither_text_leaks_what_the_other_may_not_say(place, num_words):
    words = [*WORDS[:num_words], "a ## b", " more"]
    _, data = cost(*grown(words, place), delta(reason="stop"), DONE, body=chat())
    assert b"##" not in data
    assert endings_in(data) == [(0, "content_filter")]


@pytest.mark.parametrize("ahead", [" #", " # and", " ##", " ## and"])
@pytest.mark.parametrize("place", ["message", "envelope", "delta"])
def test_a_copy_that_is_ahead_of_the_text_is_judged_for_itself(ahead, place):
    words = WORDS[:60]
    sent = grown(words, place)
    sent += [chunk("", "".join(words) + ahead, place), chunk("", "".join(words) + ahead + "## b", place)]
    _, data = cost(*sent, delta(reason="stop"), DONE, body=chat())
    assert b"##" not in data
    assert texts_in(data)[CONTENT] == "".join(words)
    assert endings_in(data) == [(0, "content_filter")]


def test_a_copy_in_the_last_event_costs_nothing():
    text = "".join(WORDS)
    last = {"index": 0, "delta": {}, "message": {"content": text}, "finish_reason": "stop"}
    parts = [delta(content=word) for word in WORDS]
    num_chars, data = cost(*parts, event({"choices": [last], "output_text": text}), DONE, body=chat())
    assert num_chars == len(text)
    assert events_in(data)[-1]["choices"] == [last]


def test_a_copy_beside_a_whole_answer_costs_nothing():
    text = "".join(WORDS)
    whole = {"choices": [{"index": 0, "message": {"content": text}, "text": text, "finish_reason": "stop"}]}
    guard = CountingGuard()
    script = Script(json.dumps(whole).encode(), content_type="application/json")
    _, data = ask(gateway(script, guard=guard), call(chat(stream=False)))
    assert guard.num_chars == len(text)
    assert json.loads(data)["choices"] == whole["choices"]


def test_events_of_a_response_that_repeat_its_text_cost_nothing():
    text = "".join(WORDS)
    sent = [event(body) for body in spoken(text, [6])]
    num_chars, data = cost(*sent, body=request(), format="responses")
    assert num_chars == len(text)
    assert events_in(data)[-1]["response"]["output"] == [message(text)]


def test_a_response_that_states_itself_in_every_event_costs_what_its_text_costs():
    def stated(index: int) -> bytes:
        so_far = "".join(WORDS[: index + 1])
        whole = response("in_progress", [message(so_far.upper())], snapshot=so_far)
        return event({"type": "response.in_progress", "response": whole})

    deltas = [event({"type": "response.output_text.delta", **AT, "delta": word}) for word in WORDS]
    sent = [part for index, each in enumerate(deltas) for part in (each, stated(index))]
    num_chars, data = cost(*sent, event({"type": "response.completed", "response": response("completed")}),
                           body=request(), format="responses")  # fmt: skip
    assert num_chars < 3 * len("".join(WORDS)) + 2000
    assert len(events_in(data)) == len(sent) + 1


def test_a_long_string_that_is_always_the_same_is_read_once():
    text = "".join(WORDS)
    parts = [event({"choices": [{"index": 0, "delta": {"content": "hi "}}], "source": text})] * 50
    num_chars, _ = cost(*parts, delta(reason="stop"), DONE, body=chat())
    assert num_chars < len(text) + 1000


def test_a_text_that_begins_anew_at_its_place_is_read_anew():
    first, second = WORDS[:60], [word.upper() for word in WORDS[:60]]
    sent = grown(first, "alone") + grown(second, "alone")
    num_chars, data = cost(*sent, delta(reason="stop"), DONE, body=chat())
    assert num_chars < 2 * 2 * len("".join(first)) + 2000
    assert len(events_in(data)) == len(sent) + 1
    _, data = cost(*sent, chunk("", "".join(second) + "##", "alone"), delta(reason="stop"), DONE, body=chat())
    assert b"##" not in data


TEXTS = (
    st.text(alphabet="ab #", min_size=1, max_size=5) | st.just("##") | st.sampled_from(["word " * 30, "#" + "x " * 90])
)
STEPS = st.lists(
    st.tuples(st.sampled_from(PLACES), TEXTS, st.sampled_from(["same", "behind", "ahead", "anew", "still"])),
    max_size=14,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, is_one=st.booleans())
@example([("message", "word " * 30, "same"), ("message", "#", "same"), ("message", "#", "same")], False)
@example([("alone", "#" + "x " * 90, "same"), ("alone", "a#", "same"), ("alone", "b", "same")], False)
def test_nothing_flagged_leaves_in_strings_that_repeat_others(steps, is_one):
    so_far, parts, values = "", [], []
    for place, text, how in steps:
        if how == "anew":
            so_far = ""
        if how != "still":
            so_far += text
        said = {"behind": so_far[:-3], "ahead": so_far + "#"}.get(how, so_far)
        values.append(said)
        parts.append(chunk(text, said, place))
    script = (
        Script(b"".join([*parts, delta(reason="stop"), DONE])) if is_one else Script(*parts, delta(reason="stop"), DONE)
    )
    guard = ScriptedGuard()
    _, data = ask(gateway(script, guard=guard), call(chat()))
    assert b"##" not in data
    assert "##" not in texts_in(data).get(CONTENT, "")
    assert len(endings_in(data)) == 1
    assert guard.num_open == 0
    if "#" not in "".join([text for _, text, _ in steps] + values):
        assert len(events_in(data)) == len(parts) + 1
        assert endings_in(data) == [(0, "stop")]
