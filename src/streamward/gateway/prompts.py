"""Conversations as clients write them, as the guard reads them."""

from collections.abc import Mapping, Sequence

from streamward.errors import InputError
from streamward.gateway.config import PromptConfig
from streamward.gateway.parts import joined, read_content, refuse_data, spelled, without, words_in
from streamward.gateway.wire import Prompt
from streamward.schema import Message, Role

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.USER,
    "function": Role.USER,
}
_TOOL_ROLES = ("tool", "function")
_REASONING = ("reasoning_content", "reasoning")
_SPELLED = ("arguments", "input")  # of a call
_READ = frozenset({"role", "content", "refusal", "tool_calls", "function_call", *_REASONING})


def to_prompt(turns: Sequence[tuple[str, Message]]) -> Prompt:
    """Arrange turns, each with the role its client gave it, so that the last of the user is the one judged.

    Results of tools are read as the user's turns: they come from outside too. Where they are last, the user's own last
    turn is judged as well. An assistant's turn at the end is what the answer begins with. Without any turn of a user
    the system's last one is judged.
    """
    prefill = ""
    if turns and turns[-1][0] == "assistant":
        prefill = turns[-1][1].content
        turns = turns[:-1]
    if turns and turns[-1][1].role is not Role.USER:
        last = max((place for place, turn in enumerate(turns) if turn[1].role is Role.USER), default=None)
        turns = _moved_last(turns, last) if last is not None else _as_user(turns)
    messages = _merged([turn for _, turn in turns])
    before_tools: tuple[Message, ...] = ()
    if turns and turns[-1][0] in _TOOL_ROLES:
        last = max((place for place, (role, _) in enumerate(turns) if role == "user"), default=None)
        before_tools = () if last is None else _merged([turn for _, turn in turns[: last + 1]])
    return Prompt(messages, before_tools, prefill)


def _moved_last(turns: Sequence[tuple[str, Message]], place: int) -> list[tuple[str, Message]]:
    """Put the user's last turn at the end: instructions behind it are read as if they stood before."""
    behind = [turn for turn in turns[place + 1 :] if turn[1].role is Role.SYSTEM]
    rest = [turn for turn in turns[place + 1 :] if turn[1].role is not Role.SYSTEM]
    if rest:  # an assistant's turns behind it: they are its context
        return [*turns[:place], *behind, *rest, turns[place]]
    return [*turns[:place], *behind, turns[place]]


def _as_user(turns: Sequence[tuple[str, Message]]) -> list[tuple[str, Message]]:
    role, last = turns[-1]
    return [*turns[:-1], (role, Message(Role.USER, last.content))]


def _merged(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Join system turns into one at the beginning, where templates look for it."""
    system = "\n\n".join(turn.content for turn in turns if turn.role is Role.SYSTEM and turn.content)
    others = [turn for turn in turns if turn.role is not Role.SYSTEM]
    return (Message(Role.SYSTEM, system), *others) if system else tuple(others)


def read_turn(message: object, *, where: str, config: PromptConfig) -> tuple[str, Message]:
    """Read a message of a chat.

    Raises:
        InputError: It is no message, or has what the guard does not read.
    """
    if not isinstance(message, dict):
        raise InputError(f"{where} must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InputError(f"{where}.role must be one of {', '.join(_ROLES)}")
    content = read_content(message.get("content"), where=f"{where}.content", config=config)
    others = without(message, *_READ)
    refuse_data(others, where=where, config=config)
    texts = [content.text, _string(message, "refusal", where), *_calls(message, where), *words_in(others)]
    thoughts = [content.reasoning]
    for name in _REASONING:
        value = message.get(name)
        thoughts += [value] if isinstance(value, str) else words_in(value)
    if role != "assistant":
        texts, thoughts = [*texts, *thoughts], []
    return role, Message(_ROLES[role], joined(texts), joined(thoughts) or None)


def refuse_unread(body: Mapping[str, object], names: Sequence[str], config: PromptConfig) -> None:
    """Refuse a request with fields that become part of the prompt past the guard, unless they may pass.

    Raises:
        InputError: It has one of them.
    """
    found = next((name for name in names if body.get(name)), None)
    if found is not None and config.unjudged_input == "refuse":
        raise InputError(
            f"{found} is not read by the guard; this gateway refuses what it cannot judge (unjudged_input)"
        )


def _calls(message: Mapping[str, object], where: str) -> list[str]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise InputError(f"{where}.tool_calls must be a list")
    lines = _call(message.get("function_call"), f"{where}.function_call")
    for index, call in enumerate(calls):
        if isinstance(call, dict):
            at = f"{where}.tool_calls[{index}]"
            for name in ("function", "custom"):
                lines += _call(call.get(name), f"{at}.{name}")
            lines += words_in(without(call, "function", "custom"))
    return [line for line in lines if line]


def _call(call: object, where: str) -> list[str]:
    if not isinstance(call, dict):
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


def read_flag(body: Mapping[str, object], name: str) -> bool:
    """Return a value that is true or false; false if it is missing.

    Raises:
        InputError: It is something else.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{name} must be true or false")
    return bool(value)


def read_count(body: Mapping[str, object], name: str, *, most: int) -> int:
    """Return a number from 1; 1 if it is missing.

    Raises:
        InputError: It is something else, or too large.
    """
    value = body.get(name)
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= most:
        raise InputError(f"{name} must be a whole number from 1 to {most}")
    return value


def read_model(body: Mapping[str, object], models: Sequence[str]) -> str:
    """Return the name of the model asked for.

    Raises:
        InputError: There is none, or it may not be asked for.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InputError("model must name the model to ask")
    if models and model not in models:
        raise InputError("model is not one of those that may be asked for here")
    return model
