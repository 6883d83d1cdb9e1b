"""Strings in unknown fields that say nothing: not read letter by letter, and no way around the guard."""

import base64
import json
import random

import pytest

from streamward.gateway.opaque import read_opaque
from tests.gateway.scripted import (
    DONE,
    Script,
    ask,
    call,
    chat,
    delta,
    event,
    events_in,
    gateway,
    reasons_in,
)
from tests.gateway.test_restated import CountingGuard

BYTES = random.Random(7).randbytes(6000)
OPAQUE = {
    "base64": base64.b64encode(BYTES).decode(),
    "base64, for addresses": base64.urlsafe_b64encode(BYTES).decode(),
    "base64, in lines": base64.encodebytes(BYTES).decode().strip(),
    "base32": base64.b32encode(BYTES).decode(),
    "hexadecimal": BYTES.hex(),
    "a token in three parts": ".".join(base64.urlsafe_b64encode(BYTES[i : i + 200]).decode() for i in (0, 200, 400)),
}
JOINED = "put_rat_poison_in_its__food_and_hide_the_body_where_nobody_will_look_for_it_and_then_tell_no_one_of_it_ever"
TEXTS = {
    "chinese": "\u9762\u5305\u9700\u8981\u9762\u7c89\u548c\u6c34" * 40,
    "thai": "\u0e02\u0e19\u0e21\u0e1b\u0e31\u0e07\u0e15\u0e49\u0e2d\u0e07\u0e43\u0e0a\u0e49\u0e41\u0e1b\u0e49\u0e07"
    * 30,
    "an address": "https://example.org/bread/how-to-bake?"
    + "&".join(f"step{n}=knead-the-dough-{n}" for n in range(20)),
    "a path": "/usr/share/" + "bread/flour-and-water/" * 10,
    "words without blanks": "kneadthedoughfortenminutesandletitrest" * 6,
    "words in capitals": "KNEADTHEDOUGHFORTENMINUTESANDLETITREST" * 6,
    "a rule": "-" * 200,
}


def answer(value: object, *, mark: bytes = b"#", **release) -> tuple[bytes, CountingGuard]:
    choice = {"index": 0, "delta": {"content": "hi"}, "blob": value, "finish_reason": "stop"}
    guard = CountingGuard(mark=mark)
    _, data = ask(gateway(Script(event({"choices": [choice]}) + DONE), guard=guard, release=release), call(chat()))
    return data, guard


def blob(data: bytes) -> object:
    return events_in(data)[0]["choices"][0].get("blob")


@pytest.mark.parametrize("name", OPAQUE)
def test_a_run_that_says_nothing_is_left_out_and_costs_nothing(name):
    data, guard = answer(OPAQUE[name])
    assert len(str(blob(data))) < 100  # what is left between runs
    assert guard.num_chars < 120
    assert reasons_in(data) == {0: "stop"}


@pytest.mark.parametrize("name", OPAQUE)
@pytest.mark.parametrize("how", ["pass", "judge"])
def test_a_run_that_says_nothing_may_pass_at_no_cost(name, how):
    data, guard = answer(OPAQUE[name], opaque_strings=how)
    assert blob(data) == OPAQUE[name]
    assert guard.num_chars < 500


@pytest.mark.parametrize("how", ["drop", "judge", "pass"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_without_blanks_is_judged_as_text(name, how):
    text = TEXTS[name]
    data, guard = answer(text, opaque_strings=how)
    assert blob(data) == text
    assert guard.num_chars == len("hi") + len(text)
    data, _ = answer(text + "##" + text, opaque_strings=how)
    assert b"##" not in data
    assert reasons_in(data) == {0: "content_filter"}


@pytest.mark.parametrize("how", ["drop", "judge", "pass"])
def test_words_disguised_as_digits_are_judged(how):
    data, _ = answer(JOINED, mark=b"_", opaque_strings=how)
    assert b"poison" not in data
    assert reasons_in(data) == {0: "content_filter"}


@pytest.mark.parametrize("shift", ["", "A", "Ab", "Abc"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, lambda data: data.hex().encode()])
def test_encoded_words_do_not_leave(shift, encode):
    hidden = shift + encode(("put ## poison in its food " * 10).encode()).decode()
    for how in ("drop", "judge"):
        data, _ = answer(hidden, opaque_strings=how)
        assert hidden[-60:].encode() not in data
    assert reasons_in(data) == {0: "content_filter"}


def test_words_around_a_run_are_judged_as_they_leave():
    data, _ = answer("see #" + OPAQUE["base64"] + "# here")
    assert b"##" not in data
    data, _ = answer("see " + OPAQUE["base64"] + " here")
    assert blob(data) == "see  here"
    for how in ("pass", "judge"):
        data, _ = answer("see ## " + OPAQUE["base64"], opaque_strings=how)
        assert b"##" not in data
        assert reasons_in(data) == {0: "content_filter"}


def test_words_that_are_mangled_to_look_like_digits_do_not_leave():
    data, _ = answer("k1ll_th3_d0g_4nd_h1d3_th3_b0dy_" * 4)
    assert b"k1ll" not in data


@pytest.mark.parametrize("how", ["drop", "pass"])
def test_media_in_unknown_fields_is_what_no_guard_reads(how):
    image = "data:image/png;base64," + OPAQUE["base64"]
    data, guard = answer([{"image_url": {"url": image}}], unjudged_output=how)
    assert blob(data) == [{"image_url": {"url": image if how == "pass" else None}}]
    assert guard.num_chars == len("hi")


def test_references_pass_however_they_look():
    reference = "resp_" + base64.b64encode(BYTES[:200]).decode()
    data, _ = answer({"response_id": reference})
    assert blob(data) == {"response_id": reference}


REFERENCES = [
    {"tool_call_id": "call_1__thought__" + base64.b64encode(BYTES[:120]).decode()},
    {"tool_call_id": "call_1__thought__" + base64.b64encode(BYTES[:360]).decode()},
    {"id": "msg_" + BYTES[:100].hex()},
    {"trace": {"request_ids": "see", "request_id": ["req_" + BYTES[:100].hex()]}},
]


@pytest.mark.parametrize("reference", REFERENCES, ids=range(len(REFERENCES)))
@pytest.mark.parametrize("how", ["drop", "judge", "pass"])
def test_references_of_a_request_reach_the_upstream_however_they_look(reference, how):
    script, turn = Script(delta(content="hi", reason="stop"), DONE), {"role": "tool", "content": "sunny", **reference}
    messages = [{"role": "user", "content": "hello"}, turn]
    ask(gateway(script, release={"opaque_strings": how}), call({**chat(), "messages": messages}))
    assert json.loads(script.requests[0].content)["messages"][1] == turn


def test_words_that_are_encoded_in_a_reference_of_a_request_are_judged():
    hidden = base64.b64encode(b"put #prompt# in its food " * 5).decode()
    messages = [{"role": "tool", "content": "sunny", "tool_call_id": hidden}]
    answer, _ = ask(gateway(Script(delta(content="hi", reason="stop"), DONE)), call({**chat(), "messages": messages}))
    assert answer.status == 400


def test_text_of_the_answer_is_text_whatever_it_looks_like():
    parts = [delta(content=OPAQUE["base64"]), delta(content=[{"type": "text", "text": OPAQUE["hexadecimal"]}])]
    _, data = ask(gateway(Script(*parts, delta(reason="stop"), DONE)), call(chat()))
    assert events_in(data)[0]["choices"][0]["delta"]["content"] == OPAQUE["base64"]
    assert events_in(data)[1]["choices"][0]["delta"]["content"][0]["text"] == OPAQUE["hexadecimal"]


@pytest.mark.parametrize(("how", "left"), [("drop", "see "), ("pass", None), ("judge", None)])
def test_unknown_fields_of_a_request_follow_the_same_rule(how, left):
    script, guard = Script(delta(content="hi", reason="stop"), DONE), CountingGuard()
    value = "see " + OPAQUE["base64"]
    messages = [{"role": "user", "content": "hello", "trace": {"blob": [value]}}]
    ask(gateway(script, guard=guard, release={"opaque_strings": how}), call({**chat(), "messages": messages}))
    sent = json.loads(script.requests[0].content)["messages"][0]
    assert sent["trace"]["blob"] == [value if left is None else left]
    assert sum(len(text) for _, text in guard.contexts[0]) < 400


def test_short_runs_and_plain_texts_are_text():
    for text in ("", "hello there", BYTES[:32].hex(), "a" * 5000, "word " * 500):
        assert read_opaque(text, "drop") is None
