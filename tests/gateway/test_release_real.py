"""The promise of mode `checked` with a real guard, random weights and all, and text in many scripts."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamward.moderation.moderator import Moderator
from tests.gateway.scripted import CONTENT, DONE, Script, ask, call, chat, delta, gateway, reasons_in, texts_in
from tests.gateway.test_release_chat import cut
from tests.moderation.guards import stream_guard
from tests.moderation.sharp_policy import POLICY, PROMPT, TEXT


@pytest.fixture(scope="module")
def moderator():
    with Moderator(stream_guard(), policy=POLICY) as opened:
        yield opened


def assert_nothing_leaves_past_the_flagged_token(moderator, text, *, pieces, sizes):
    """Send a text through a gateway over a guard, in deltas of so many characters and chunks of so many bytes."""
    words = [part.decode("utf-32-le") for part in cut(text.encode("utf-32-le"), [4 * size for size in pieces])]
    body = b"".join(delta(content=word) for word in words) + delta(reason="stop") + DONE

    def open_guard(messages, policy):
        return moderator.with_policy(policy).astream(messages=messages or None)

    gate = gateway(Script(*cut(body, sizes)), open_guard=open_guard)
    _, data = ask(gate, call(chat(content=PROMPT), policy=POLICY))
    shown = texts_in(data).get(CONTENT, "")
    judged = moderator.moderate(prompt=PROMPT, response=text).response
    assert text.startswith(shown)
    if judged.first_flagged_char is None:
        assert shown == text or reasons_in(data) == {0: "content_filter"}  # a word cut in two may look worse than whole
    else:
        assert reasons_in(data) == {0: "content_filter"}
        span = judged.verdicts[judged.first_flagged_token].span
        assert len(shown) < span.end


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    start=st.integers(0, 60),
    length=st.integers(1, 120),
    pieces=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=3),
)
def test_nothing_leaves_past_the_flagged_token(moderator, start, length, pieces, sizes):
    text = (TEXT * 3)[start : start + length]
    assert_nothing_leaves_past_the_flagged_token(moderator, text, pieces=pieces, sizes=sizes)
    assert moderator._guard.engine.num_streams == 0


def test_the_guard_finds_something_and_lets_something_through(moderator):
    found = {
        moderator.moderate(prompt=PROMPT, response=TEXT[n : n + 9]).response.first_flagged_char is None
        for n in range(60)
    }
    assert found == {True, False}
