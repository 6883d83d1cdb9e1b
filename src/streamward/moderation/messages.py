"""Messages as OpenAI's clients write them, as the guard reads them. One reader for library, service and gateway."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from streamward.errors import InputError
from streamward.moderation.message_parts import joined, read_content, refuse_data, spelled, without, words_in
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
"""Roles of messages, and which of the guard's three each is read as: results of tools come from outside like users."""
TOOL_ROLES = ("tool", "function")
_REASONING = ("reasoning_content", "reasoning")
_READ = frozenset({"role", "content", "refusal", "tool_calls", "function_call", *_REASONING})
_SPELLED = ("arguments", "input")  # fields of a call that hold its arguments


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

    Tool calls are part of the assistant's turn. Strings under keys that are not known are read too, save names, ids
    and what a server has sealed. A turn that is not an assistant's has no thoughts: they are read as its text.

    Args:
        message: An object with `role` and `content`.
        where: Its place, for errors.
        refusal: What to say of a part that holds data; None leaves such parts out.

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
    content = read_content(message.get("content"), where=f"{where}.content", refusal=refusal)
    others = without(message, *_READ)
    refuse_data(others, where=where, refusal=refusal)
    calls = _calls(message, where)
    words = [content.text, _string(message, "refusal", where), *words_in(others)]
    texts = [*words[:2], *calls, *words[2:]]
    thoughts = [content.reasoning]
    for name in _REASONING:
        value = message.get(name)
        thoughts += [value] if isinstance(value, str) else words_in(value)
    if role != "assistant":
        texts, thoughts = [*texts, *thoughts], []
    has_calls = role == "assistant" and bool(calls)
    is_call_only = has_calls and not any(text.strip() for text in (*words, *thoughts))
    return role, Message(
        ROLES[role], joined(texts), joined(thoughts) or None, has_calls=has_calls, is_call_only=is_call_only
    )


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
    found: list[Turn] = []
    for role, message in turns:
        if role in TOOL_ROLES:
            before = found.pop()[1].content if found and found[-1][0] in TOOL_ROLES else ""
            message = Message(Role.USER, joined([before, message.content]), is_tool_result=True)
        found.append((role, message))
    return found


def _merged(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Join system turns into one at the beginning, where templates look for it."""
    system = "\n\n".join(turn.content for turn in turns if turn.role is Role.SYSTEM and turn.content)
    others = [turn for turn in turns if turn.role is not Role.SYSTEM]
    return (Message(Role.SYSTEM, system), *others) if system else tuple(others)


def _calls(message: Mapping[str, object], where: str) -> list[str]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list | tuple):
        raise InputError(f"{where}.tool_calls must be a list")
    lines = _call(message.get("function_call"), f"{where}.function_call")
    for index, call in enumerate(calls):
        if isinstance(call, Mapping):
            at = f"{where}.tool_calls[{index}]"
            for name in ("function", "custom"):
                lines += _call(call.get(name), f"{at}.{name}")
            lines += words_in(without(call, "function", "custom"))
    return [line for line in lines if line]


def _call(call: object, where: str) -> list[str]:
    if not isinstance(call, Mapping):
        return []
    said = [_string(call, "name", where), *(spelled(call.get(name), f"{where}.{name}") for name in _SPELLED)]
    return [*said, *words_in(without(call, "name", *_SPELLED))]


def _string(message: Mapping[str, object], name: str, where: str) -> str:
    value = message.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}.{name} must be a string")
    return value
