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
        ({"messages": ["Hi"]}, r"messages\[0\] must be an object with role and content"),
        ({"messages": [{"role": "robot", "content": "a"}]}, r"messages\[0\].role is unknown"),
        ({"messages": [{"content": "a"}]}, r"messages\[0\].role is missing; it must be one of system, developer"),
        ({"messages": [{"role": "asistant", "content": "a"}]}, "did you mean 'assistant'"),
        ({"messages": [{"role": "user", "content": 5}]}, r"messages\[0\].content must be a string, null or a list"),
        ({"messages": [{"role": "user", "content": {"url": "x.png"}}]}, r"messages\[0\].content is not text"),
        ({"messages": [{"role": "assistant", "tool_calls": "f"}]}, r"messages\[0\].tool_calls must be a list"),
        ({"messages": [{"role": "system", "content": "a"}]}, "last message has the role system"),
        ({"messages": [{"role": "developer", "content": "a"}]}, "last message has the role developer"),
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


BLANK = {
    "an empty prompt": {"prompt": ""},
    "blanks": {"prompt": " \n\t\u3000"},
    "an empty response": {"response": ""},
    "both": {"prompt": "", "response": " "},
    "an empty last turn": {"messages": [{"role": "user", "content": "hello"}, {"role": "user", "content": ""}]},
    "null": {"messages": [{"role": "user", "content": None}]},
    "no content": {"messages": [{"role": "user"}]},
    "no parts": {"messages": [{"role": "user", "content": []}]},
    "empty parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
    "an instruction alone with text": {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ""}]
    },
    "no calls": {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
}


@pytest.mark.parametrize("name", BLANK)
def test_a_conversation_without_text_to_judge_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="nothing to judge"):
        read_conversation(**BLANK[name], max_chars=100)  # type: ignore[arg-type]  # as callers write it


def test_one_side_with_text_is_enough() -> None:
    assert read_conversation(prompt="Hi", response="", max_chars=100).has_prompt
    assert read_conversation(prompt="", response="Hello", max_chars=100).response is not None


def test_characters_that_only_look_like_nothing_are_judged() -> None:
    for text in ("\0", "\ud83d", "\u200b"):
        assert read_conversation(prompt=text, max_chars=100).has_prompt


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


def test_an_openai_conversation_is_read_with_roles_parts_and_calls() -> None:
    messages: list[Mapping[str, object]] = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "name": "ada",
            "content": [{"type": "text", "text": "Cold"}, {"type": "input_text", "text": "?"}],
        },
        {"role": "assistant", "content": None, "reasoning_content": "Look it up.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "rain"}]},
        {"role": "assistant", "content": "Yes.", "refusal": None, "annotations": []},
    ]
    conversation = read_conversation(messages=messages, max_chars=1000)
    before = (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Cold\n?"))
    call = Message(Role.ASSISTANT, 'weather\n{"city": "Oslo"}', "Look it up.")
    assert conversation.context == (*before, call, Message(Role.USER, "4 degrees\nrain"))
    assert conversation.before_tools == before
    assert conversation.response == Message(Role.ASSISTANT, "Yes.")


@pytest.mark.parametrize(
    "said",
    [
        {"tool_calls": [CALL]},
        {"function_call": CALL["function"]},
        {"tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]},
    ],
)
def test_calls_of_the_last_turn_are_what_is_judged(said: Mapping[str, object]) -> None:
    turns: list[Mapping[str, object]] = [
        {"role": "user", "content": "Cold?"},
        {"role": "assistant", "content": None, **said},
    ]
    conversation = read_conversation(messages=turns, max_chars=1000)
    assert conversation.response is not None
    assert conversation.response.content.replace(" ", "") == 'weather\n{"city":"Oslo"}'


def test_text_under_keys_that_are_not_known_is_judged_with_the_turn() -> None:
    turn = {"role": "user", "content": "a", "id": "msg_1", "note": {"more": ["two words"]}}
    assert read_conversation(messages=[turn], max_chars=100).context == (Message(Role.USER, "a\ntwo words"),)


@pytest.mark.parametrize("kind", ["refusal", "thinking"])
def test_refusals_and_thoughts_among_the_parts_are_read(kind: str) -> None:
    part = {
        "refusal": {"type": "refusal", "refusal": "No."},
        "thinking": {"type": "thinking", "thinking": [{"text": "a b"}]},
    }
    turn = {"role": "assistant", "content": [part[kind], {"type": "text", "text": "Bye."}]}
    expected = {"refusal": Message(Role.ASSISTANT, "No.\nBye."), "thinking": Message(Role.ASSISTANT, "Bye.", "a b")}
    assert read_conversation(messages=[turn], max_chars=100).response == expected[kind]


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "hologram"])
def test_a_part_that_is_no_text_is_refused_instead_of_left_out(kind: str) -> None:
    content = [{"type": "text", "text": "look"}, {"type": kind, kind: {"url": "https://x.test/a.png"}}]
    with pytest.raises(InputError, match=r"messages\[0\].content\[1\] is not text"):
        read_conversation(messages=[{"role": "user", "content": content}], max_chars=100)


def test_an_instruction_behind_the_user_does_not_hide_the_users_turn() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "developer", "content": "b"}]
    conversation = read_conversation(messages=messages, max_chars=100)
    assert conversation.context == (Message(Role.SYSTEM, "b"), Message(Role.USER, "a"))
