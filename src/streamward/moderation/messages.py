"""Messages as OpenAI's clients write them, as the guard reads them. One reader for library, service and gateway."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from streamward.errors import InputError
from streamward.schema import Message, Role
from streamward.suggestions import suggest

Turn = tuple[str, Message]
"""The role a client gave a message, and the message as the guard reads it."""

ROLES: Mapping[str, Role] = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.USER,
    "function": Role.USER,
}
"""Roles of messages, and which of the guard's three each is read as. Results of tools come from outside, as users do."""
TOOL_ROLES = ("tool", "function")
TEXT_PARTS: Mapping[str, str] = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that are text, and the key their text is under."""
_THINKING = "thinking"
_MEDIA_PARTS = ("image_url", "input_image", "input_audio", "audio", "video_url", "file", "input_file")
_REASONING = ("reasoning_content", "reasoning")
_READ = frozenset({"role", "content", "refusal", "tool_calls", "function_call", *_REASONING})
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:/@+~=-]{1,128}")


class Arranged(NamedTuple):
    """A conversation in the order the guard reads it.

    Attributes:
        messages: Ends with the user's last turn, if there is one.
        before_tools: The conversation up to the user's own last turn, where results of tools came after it; each of
            the two is judged.
    """

    messages: tuple[Message, ...]
    before_tools: tuple[Message, ...] = ()


def read_turn(message: object, *, where: str, refusal: str | None) -> Turn:
    """Read a message.

    Tool calls are part of the assistant's turn. Strings under keys that are not known are read too, save names and
    ids. A turn that is not an assistant's has no thoughts: they are read as its text.

    Args:
        message: An object with `role` and `content`.
        where: Its place, for errors.
        refusal: What to say of a part that is no text; None leaves such parts out.

    Raises:
        InputError: It is no message, or has what the guard does not read.
    """
    if not isinstance(message, Mapping):
        raise InputError(f"{where} must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = suggest(role, ROLES) if isinstance(role, str) else ""
        what = "missing" if role is None else "unknown"
        raise InputError(f"{where}.role is {what}; it must be one of {', '.join(ROLES)}{near}")
    said, thoughts = _content(message.get("content"), where=f"{where}.content", refusal=refusal)
    texts = [*said, _string(message, "refusal", where), *_calls(message, where)]
    texts += words_in({name: value for name, value in message.items() if name not in _READ})
    for name in _REASONING:
        thoughts += _thoughts(message, name, where)
    if role != "assistant":
        texts, thoughts = [*texts, *thoughts], []
    return role, Message(ROLES[role], "\n".join(each for each in texts if each), "\n".join(each for each in thoughts if each) or None)


def read_content(content: object, *, where: str, refusal: str | None) -> str:
    """Return the text of a message's content: a string, null, or a list of parts; thoughts among them too.

    Raises:
        InputError: It is something else, or a part is one the guard does not read; see `read_turn`.
    """
    said, thoughts = _content(content, where=where, refusal=refusal)
    return "\n".join([*thoughts, *said])


def _content(content: object, *, where: str, refusal: str | None) -> tuple[list[str], list[str]]:
    """Return what is said, and what is thought."""
    if content is None:
        return [], []
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        if isinstance(content, Mapping) and refusal is None:
            return [], []
        raise InputError(f"{where} must be a string, null or a list of parts")
    said, thoughts = [], []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get(TEXT_PARTS[kind]) if isinstance(part, Mapping) and kind in TEXT_PARTS else None
        if isinstance(text, str):
            said.append(text)
        elif isinstance(part, Mapping) and kind == _THINKING:
            thoughts += words_in(part.get(_THINKING))
        elif refusal is not None:
            told = f" ({kind})" if kind in _MEDIA_PARTS else ""
            raise InputError(f"{where}[{index}] is no text{told}; {refusal}")
    return said, thoughts


def arrange(turns: Sequence[Turn]) -> Arranged:
    """Order turns so that the last of the user is the last of all.

    Results of tools are read as the user's turns, successive ones as one turn. Where they are last, the user's own last
    turn is judged as well. Instructions are joined into one turn at the beginning, where templates look for them; an
    assistant's turns behind the user's last one are its context.
    """
    turns = _joined_results(turns)
    last = max((place for place, turn in enumerate(turns) if turn[1].role is Role.USER), default=None)
    if last is not None:
        turns = [*turns[:last], *turns[last + 1 :], turns[last]]
    before_tools: tuple[Message, ...] = ()
    if turns and turns[-1][0] in TOOL_ROLES:
        own = max((place for place, (role, _) in enumerate(turns) if role == "user"), default=None)
        before_tools = () if own is None else _merged([turn for _, turn in turns[: own + 1]])
    return Arranged(_merged([turn for _, turn in turns]), before_tools)


def _joined_results(turns: Sequence[Turn]) -> list[Turn]:
    """Make one turn of the results of calls that were made at the same time: the guard judges one turn."""
    joined: list[Turn] = []
    for role, message in turns:
        if role in TOOL_ROLES and joined and joined[-1][0] in TOOL_ROLES:
            role, before = joined.pop()
            message = Message(Role.USER, "\n".join(each for each in (before.content, message.content) if each))
        joined.append((role, message))
    return joined


def _merged(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Join system turns into one at the beginning, where templates look for it."""
    system = "\n\n".join(turn.content for turn in turns if turn.role is Role.SYSTEM and turn.content)
    others = [turn for turn in turns if turn.role is not Role.SYSTEM]
    return (Message(Role.SYSTEM, system), *others) if system else tuple(others)


def strings_in(value: object) -> Iterator[str]:
    """Return all strings in a JSON value, names of entries left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings_in(each)


def words_in(value: object) -> list[str]:
    """Return all strings in a JSON value that may be text: no names, no data."""
    return [each for each in strings_in(value) if each and not is_identifier(each) and not each.startswith("data:")]


def is_identifier(text: str) -> bool:
    """Return whether a string is a name without spaces, of at most 128 characters."""
    return _IDENTIFIER.fullmatch(text) is not None


def _thoughts(message: Mapping[str, object], name: str, where: str) -> list[str]:
    value = message.get(name)
    return words_in(value) if isinstance(value, Mapping | list) else [_string(message, name, where)]


def _calls(message: Mapping[str, object], where: str) -> list[str]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list | tuple):
        raise InputError(f"{where}.tool_calls must be a list")
    found: list[object] = [message.get("function_call")]
    for call in calls:
        found += [call.get("function"), call.get("custom")] if isinstance(call, Mapping) else []
    lines = []
    for call in found:
        if isinstance(call, Mapping):
            lines += [_argument(call, name, where) for name in ("name", "arguments", "input")]
    return [line for line in lines if line]


def _argument(call: Mapping[str, object], name: str, where: str) -> str:
    """Return a text of a call; arguments that are JSON values are read as they are written."""
    value = call.get(name)
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False)
    return _string(call, name, where)


def _string(message: Mapping[str, object], name: str, where: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}.{name} must be a string")
    return value
