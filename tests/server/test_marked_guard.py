"""The guard that the service's tests use says what they rely on."""

import pytest

from tests.server.marked_guard import marked_moderator


@pytest.fixture(scope="module")
def guard():
    with marked_moderator() as moderator:
        yield moderator


@pytest.mark.parametrize(("prompt", "action"), [("hello", "allow"), ("#", "block"), ("a # " + "b" * 200, "block")])
def test_a_prompt_with_a_mark_is_blocked(guard, prompt, action):
    assert guard.moderate(prompt=prompt).decision.action == action


@pytest.mark.parametrize(
    ("response", "action"), [("hello", "allow"), ("a # b", "allow"), ("a ## b", "block"), ("#", "block")]
)
def test_two_marks_in_a_response_block_it(guard, response, action):
    assert guard.moderate(prompt="hello", response=response).decision.action == action


def test_a_stream_is_cut_before_the_marks(guard):
    with guard.stream(prompt="hello") as stream:
        for character in "one ## two":
            stream.feed(character)
        assert stream.decision.action == "block"
        assert stream.releasable_chars == 4
