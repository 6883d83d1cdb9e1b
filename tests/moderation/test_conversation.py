from collections.abc import Mapping

import pytest

from streamward.errors import ContextLengthError, InputError
from streamward.moderation.conversation import read_conversation
from streamward.schema import Message, Role


def test_prompt_and_response_become_two_turns() -> None:
    conversation = read_conversation(prompt="Hi", response="Hello", max_chars=100)
    assert conversation.context == (Message(Role.USER, "Hi"),)
    assert conversation.response == Message(Role.ASSISTANT, "Hello")


def test_a_response_alone_has_no_prompt_to_judge() -> None:
    conversation = read_conversation(response="Hello", max_chars=100)
    assert not conversation.has_prompt
    assert conversation.response is not None


def test_messages_keep_their_order_and_reasoning() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "reasoning": "A greeting."},
    ]
    conversation = read_conversation(messages=messages, max_chars=100)
    assert [message.role for message in conversation.context] == [Role.SYSTEM, Role.USER]
    assert conversation.response == Message(Role.ASSISTANT, "Hello", "A greeting.")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "nothing to judge"),
        ({"prompt": 3}, "prompt is of type int"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "not both"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "Hi"}, "messages is of type str"),
        ({"messages": ["Hi"]}, r"messages\[0\] is of type str"),
        ({"messages": [{"role": "robot", "content": "a"}]}, r"messages\[0\].role is unknown"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\].content is of type NoneType"),
        ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, r"messages\[0\] has 1 unknown keys"),
        ({"messages": [{"role": "system", "content": "a"}]}, "last message has the role system"),
    ],
)
def test_a_malformed_conversation_is_refused(arguments: Mapping[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_conversation(**arguments, max_chars=100)  # type: ignore[arg-type]  # that is the point


def test_too_many_characters_are_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthError, match="has 101 characters; at most 100"):
        read_conversation(prompt="a" * 60, response="b" * 41, max_chars=100)


def test_errors_do_not_repeat_the_text() -> None:
    with pytest.raises(InputError) as caught:
        read_conversation(messages=[{"role": "secret words", "content": "a"}], max_chars=100)
    assert "secret" not in str(caught.value)
