"""Conversations as clients write them, as the guard reads them."""

from collections.abc import Mapping, Sequence

from streamward.errors import InputError
from streamward.gateway.config import PromptConfig
from streamward.gateway.wire import Prompt
from streamward.moderation.messages import Turn, arrange
from streamward.schema import Message, Role


def to_prompt(turns: Sequence[Turn]) -> Prompt:
    """Arrange turns so that the last of the user is the one judged; see `arrange`.

    An assistant's turn at the end is what the answer begins with. Without any turn of a user the system's last one is
    judged.
    """
    prefill = ""
    if turns and turns[-1][0] == "assistant":
        prefill = turns[-1][1].content
        turns = turns[:-1]
    if turns and not any(turn.role is Role.USER for _, turn in turns):
        role, last = turns[-1]
        turns = [*turns[:-1], (role, Message(Role.USER, last.content))]
    return Prompt(*arrange(turns), prefill)


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
