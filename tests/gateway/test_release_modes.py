"""Release modes, replacements, text completions, and what the guard does when it fails."""

import asyncio
import json
import threading

import pytest

from streamward.errors import CheckpointError, ContextLengthError, OverloadedError
from streamward.gateway.call_record import EndReason
from streamward.gateway.config import GatewayLimits
from streamward.policy import Policy
from tests.gateway.scripted import (
    CONTENT,
    DONE,
    Notebook,
    Script,
    ScriptedGuard,
    ask,
    ask_in_two,
    call,
    chat,
    delta,
    document,
    event,
    events_in,
    gateway,
    reasons_in,
    spoken,
    texts_in,
)

REPLACING = Policy.parse({"name": "r", "replacement": "Let us stop.", "response": {"unsafe": "replace"}}, source="test")


def said(script: Script, **settings) -> str:
    _, data = ask(gateway(script, **settings), call(chat()))
    return texts_in(data).get(CONTENT, "")


def test_hold_keeps_so_many_tokens_back_until_the_end():
    script = spoken("a", "b", "c", "d", "e")
    gate = gateway(script, release={"mode": "hold", "hold_tokens": 3})
    early, late = ask_in_two(gate, script, call(chat()), at=4)
    assert texts_in(early)[CONTENT] == "a"
    assert texts_in(late)[CONTENT] == "bcde"


def test_hold_shows_so_many_tokens_less_before_a_cut():
    assert said(spoken("abcd", "e", "f##"), release={"mode": "hold", "hold_tokens": 3}) == "abc"


def test_audit_releases_at_once_and_says_how_far_text_was_checked():
    _, data = ask(gateway(spoken("one ", "two"), release={"mode": "audit"}), call(chat()))
    assert texts_in(data)[CONTENT] == "one two"
    notes = [choice for body in events_in(data) for choice in body["choices"] if "content_filter_offsets" in choice]
    assert notes[-1]["content_filter_offsets"]["check_offset"] == 7
    assert notes[-1]["delta"] == {}


def test_audit_stops_too_but_later():
    script = spoken("one ", "## two", " three")
    early, late = ask_in_two(gateway(script, release={"mode": "audit"}), script, call(chat()), at=2)
    assert texts_in(early)[CONTENT] == "one ## two"
    assert texts_in(late).get(CONTENT, "") == ""
    assert reasons_in(late) == {0: "content_filter"}


def test_a_replacement_is_said_behind_the_last_checked_text():
    _, data = ask(gateway(spoken("one ## two")), call(chat(), policy=REPLACING))
    assert texts_in(data)[CONTENT] == "one Let us stop."
    assert reasons_in(data) == {0: "content_filter"}


def test_a_replacement_stands_alone_where_nothing_was_streamed():
    _, data = ask(gateway(document("one ## two")), call(chat(stream=False), policy=REPLACING))
    assert json.loads(data)["choices"][0]["message"]["content"] == "Let us stop."


def test_a_stop_ends_the_upstreams_request():
    script = spoken("a##", "never asked for")
    script.gate, script.gate_at = asyncio.Event(), 1
    _, data = ask(gateway(script), call(chat()))
    assert data.endswith(DONE)
    assert script.is_closed
    assert script.num_sent == 1


@pytest.mark.parametrize("is_stream", [True, False])
def test_text_completions_are_guarded_alike(is_stream):
    def choice(index, text, **more):
        return {"index": index, "text": text, "finish_reason": None, **more}

    whole = {"tokens": ["one ", "##"], "token_logprobs": [-1.0, -2.0], "top_logprobs": None, "text_offset": [0, 4]}
    if is_stream:
        parts = [choice(0, "one "), choice(1, "fine"), choice(0, "## two"), choice(1, "", finish_reason="stop")]
        script = Script(*[event({"id": "c", "object": "text_completion", "choices": [part]}) for part in parts], DONE)
    else:
        choices = [choice(0, "one ## two", logprobs=whole), choice(1, "fine", logprobs={"tokens": ["##"]})]
        script = Script(json.dumps({"choices": choices}).encode(), content_type="application/json")
    guard = ScriptedGuard()
    asked = {"model": "m", "prompt": ["first", "second"], "stream": is_stream}
    _, data = ask(gateway(script, guard=guard), call(asked, format="completions"))
    bodies = events_in(data) if is_stream else [json.loads(data)]
    texts = {0: "", 1: ""}
    for body in bodies:
        for each in body["choices"]:
            texts[each["index"]] += each["text"]
    assert texts == {0: "one ", 1: "fine"}
    assert b"##" not in data
    assert guard.contexts == [[("user", "first")], [("user", "second")]]


ERRORS = [OverloadedError("full"), ContextLengthError("long"), CheckpointError("nan"), RuntimeError("secret text")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_guard_that_fails_lets_nothing_unjudged_through(error):
    notebook = Notebook()
    guard = ScriptedGuard(fails_at=4, error=error)
    script = spoken("abc", "def", "ghi")
    early, late = ask_in_two(gateway(script, guard=guard, observer=notebook), script, call(chat()), at=1)
    assert texts_in(early)[CONTENT] == "abc"
    assert texts_in(late) == {}
    assert reasons_in(late) == {0: "content_filter"}
    (outcome,) = notebook.outcomes
    assert outcome.ending is EndReason.GUARD_FAILED
    assert outcome.decision.error == getattr(error, "code", "internal")
    assert guard.num_open == 0


def test_a_policy_may_let_text_through_that_could_not_be_judged():
    lenient = Policy.parse({"name": "l", "on_error": {"response": "flag"}}, source="test")
    guard = ScriptedGuard(fails_at=4, error=CheckpointError("nan"))
    _, data = ask(gateway(spoken("abc", "def", "ghi"), guard=guard), call(chat(), policy=lenient))
    assert texts_in(data)[CONTENT] == "abcdefghi"
    assert reasons_in(data) == {0: "stop"}


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_guard_that_fails_takes_nothing_back(is_stream):
    lenient = Policy.parse({"name": "l", "on_error": {"response": "allow"}}, source="test")
    text = "one ## two"
    script = spoken(text) if is_stream else document(text)

    class Tired:
        """Fails when it is asked for the whole judgement."""

        def __init__(self, messages, policy):
            self._inner = ScriptedGuard().open(messages, policy)

        async def __aenter__(self):
            self._stream = await self._inner.__aenter__()
            return self

        async def __aexit__(self, *error):
            await self._inner.__aexit__(*error)

        def __getattr__(self, name):
            return getattr(self._stream, name)

        async def finish(self):
            raise RuntimeError("tired")

    _, data = ask(gateway(script, open_guard=Tired), call(chat(stream=is_stream), policy=lenient))
    assert b"##" not in data
    assert b"content_filter" in data


def test_what_was_stopped_stays_stopped_where_too_much_is_held():
    lenient = Policy.parse({"name": "l", "on_error": {"response": "allow"}}, source="test")
    limits = GatewayLimits(max_held_bytes=100)
    _, data = ask(gateway(spoken("a" * 200 + "## b"), limits=limits), call(chat(), policy=lenient))
    assert b"#" not in data
    assert reasons_in(data) == {0: "content_filter"}


def test_a_guard_that_never_answers_counts_as_failed():
    never = threading.Event()

    class Stuck(ScriptedGuard):
        def _stream(self, messages, policy):
            stream = super()._stream(messages, policy)
            stream.feed_coroutine, stream.is_quick = hang, lambda piece: False
            return stream

    async def hang(piece):
        never.wait(0.5)

    notebook = Notebook()
    limits = GatewayLimits(guard_timeout_s=0.05)
    _, data = ask(gateway(spoken("hi"), guard=Stuck(), limits=limits, observer=notebook), call(chat()))
    assert texts_in(data) == {}
    assert reasons_in(data) == {0: "content_filter"}
    assert notebook.outcomes[0].decision.error == "overloaded"


def test_an_overloaded_guard_is_given_time():
    class Twice(ScriptedGuard):
        def _stream(self, messages, policy):
            self.num_opened += 1
            if self.num_opened < 3:
                raise OverloadedError("full")
            return super()._stream(messages, policy)

    limits = GatewayLimits(overload_wait_s=1.0)
    assert said(spoken("hello"), guard=Twice(), limits=limits) == "hello"


def test_a_second_stream_that_cannot_be_opened_stops_its_choice():
    guard = ScriptedGuard(opens=1)
    guard.opening_error = OverloadedError("full")
    script = Script(delta(0, content="fine"), delta(1, content="hi"), delta(0, reason="stop"), delta(1, reason="stop"))
    _, data = ask(gateway(script, guard=guard), call(chat(n=2)))
    assert texts_in(data) == {CONTENT: "fine"}
    assert reasons_in(data) == {0: "stop", 1: "content_filter"}


def test_fields_that_take_turns_may_not_use_up_the_guard():
    names = [{"tool_calls": [{"index": i, "function": {"arguments": "x"}}]} for i in range(9)] * 2
    script = Script(*[delta(**each) for each in names], delta(reason="stop"), DONE)
    guard = ScriptedGuard()
    _, data = ask(gateway(script, guard=guard, limits=GatewayLimits(max_guard_streams=4)), call(chat()))
    assert guard.num_opened == 4
    assert reasons_in(data) == {0: "content_filter"}


def test_too_much_held_text_is_not_held_for_ever():
    tool = delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}])
    script = Script(delta(content="a"), tool, delta(content="#"), *[tool] * 30, delta(reason="stop"), DONE)
    script.gate, script.gate_at = asyncio.Event(), 33  # the end, which would clear the `#`, never comes
    _, data = ask(gateway(script, limits=GatewayLimits(max_held_bytes=2000)), call(chat()))
    assert reasons_in(data) == {0: "content_filter"}
    assert script.is_closed


def test_one_batch_is_judged_in_one_go():
    """All that waits when the judge is free is one piece for the guard, and leaves as the chunks it came in."""
    fed = []

    class Counting(ScriptedGuard):
        def _stream(self, messages, policy):
            stream = super()._stream(messages, policy)
            feed = stream.feed_coroutine
            stream.feed_coroutine = lambda piece: (fed.append(piece), feed(piece))[1]
            return stream

    _, data = ask(
        gateway(
            Script(b"".join(delta(content=letter) for letter in "abcdef") + delta(reason="stop") + DONE),
            guard=Counting(),
        ),
        call(chat()),
    )
    assert fed == ["abcdef"]
    assert [choice["delta"] for body in events_in(data) for choice in body["choices"]] == [
        *[{"content": letter} for letter in "abcdef"],
        {},
    ]


def test_strings_that_are_always_the_same_cost_one_guard_stream():
    """As of services that send their name, and the sources of an answer, with every chunk."""
    sources = [{"url": f"https://x.test/{index}", "title": f"Source {index}"} for index in range(20)]
    choice = {"index": 0, "delta": {"content": "word ", "parts": [{"format": "a b"}]}, "finish_reason": None}
    chunk = event({"id": "c", "provider": "Some One", "sources": sources, "choices": [choice]})
    guard = ScriptedGuard()
    _, data = ask(gateway(Script(*[chunk] * 9, delta(reason="stop"), DONE), guard=guard), call(chat()))
    assert guard.num_opened == 3  # what is said, what else is in the choice, what is beside the choices
    assert texts_in(data)[CONTENT] == "word " * 9
    assert events_in(data)[-2]["sources"] == sources


def test_what_is_known_and_clear_passes_untouched():
    choice = {
        "index": 0,
        "delta": {
            "role": "assistant",
            "content": "hi",
            "tool_calls": [{"index": 0, "id": "call_1", "type": "function"}],
        },
        "logprobs": None,
        "finish_reason": None,
        "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
    }
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "org/m:x", "service_tier": "default"}
    guard = ScriptedGuard()
    script = Script(event({**chunk, "choices": [choice], "usage": None}), delta(reason="stop"), DONE)
    _, data = ask(gateway(script, guard=guard), call(chat()))
    assert events_in(data)[0] == {**chunk, "choices": [choice], "usage": None}
    assert guard.num_opened == 1


def test_flagged_text_beside_the_choices_stops_them_all():
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": "fine"}}], "provider": "a ## b"}
    script = Script(delta(0, content="one"), delta(1, content="two"), event(chunk), delta(1, content="three"))
    _, data = ask(gateway(script), call(chat(n=2)))
    assert b"provider" not in data
    assert reasons_in(data) == {0: "content_filter", 1: "content_filter"}
    assert data.endswith(DONE)


def test_the_end_of_a_choice_waits_for_the_end_of_all():
    script = Script(
        delta(content="hi"), delta(reason="stop"), event({"choices": [], "usage": {"total_tokens": 1}}), DONE
    )
    early, late = ask_in_two(gateway(script), script, call(chat()), at=2)
    assert (texts_in(early), reasons_in(early)) == ({CONTENT: "hi"}, {})
    assert reasons_in(late) == {0: "stop"}
