"""What a caller wants judged, checked and in one shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamward.errors import ContextLengthError, InputError
from streamward.schema import Message, Role

MessageLike = Message | Mapping[str, object]
_KEYS = frozenset({"role", "content", "reasoning"})


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns up to the one that is judged.

    Attributes:
        context: Turns up to and including the user's last; may be empty.
        response: The assistant's last turn; None if only the prompt is judged.
    """

    context: tuple[Message, ...]
    response: Message | None

    @property
    def has_prompt(self) -> bool:
        """Whether there is a user turn to judge: the context ends with one."""
        return bool(self.context) and self.context[-1].role is Role.USER


def read_conversation(
    *,
    prompt: str | None = None,
    response: str | None = None,
    messages: Sequence[MessageLike] | None = None,
    max_chars: int,
) -> Conversation:
    """Check what the caller gave.

    Args:
        prompt: What the user said.
        response: What the assistant said.
        messages: Instead of both: a conversation whose last turn is judged, and the user turn before it if the last
            is the assistant's. Mappings with `role`, `content` and, for an assistant, `reasoning` are taken too.
        max_chars: Longest conversation accepted, in characters.

    Raises:
        InputError: Nothing or too much was given, or something of the wrong kind.
        ContextLengthError: There are more characters than `max_chars`.
    """
    if messages is None:
        turns = _turns(prompt, response)
    elif prompt is not None or response is not None:
        raise InputError("give either messages, or prompt and response, not both")
    else:
        turns = _read_messages(messages)
    num_chars = sum(len(turn.content) + len(turn.reasoning or "") for turn in turns)
    if num_chars > max_chars:
        raise ContextLengthError(f"the text has {num_chars} characters; at most {max_chars} are accepted (max_chars)")
    if turns[-1].role is Role.ASSISTANT:
        return Conversation(tuple(turns[:-1]), turns[-1])
    if turns[-1].role is not Role.USER:
        raise InputError(f"the last message has the role {turns[-1].role.value}; it must be user or assistant")
    return Conversation(tuple(turns), None)


def _turns(prompt: str | None, response: str | None) -> list[Message]:
    for name, text in (("prompt", prompt), ("response", response)):
        if text is not None and not isinstance(text, str):
            raise InputError(f"{name} is of type {type(text).__name__}; it must be a string")
    if prompt is None and response is None:
        raise InputError("there is nothing to judge; give prompt, response or messages")
    turns = [] if prompt is None else [Message(Role.USER, prompt)]
    return turns if response is None else [*turns, Message(Role.ASSISTANT, response)]


def _read_messages(messages: Sequence[MessageLike]) -> list[Message]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError(f"messages is of type {type(messages).__name__}; it must be a list of messages")
    if not messages:
        raise InputError("messages is empty; it must hold at least one message")
    return [_read_message(message, index=index) for index, message in enumerate(messages)]


def _read_message(message: MessageLike, *, index: int) -> Message:
    where = f"messages[{index}]"
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is of type {type(message).__name__}; it must have role and content")
    unknown = sorted(str(key) for key in message.keys() - _KEYS)
    if unknown:
        raise InputError(f"{where} has {len(unknown)} unknown keys; known are {', '.join(sorted(_KEYS))}")
    content, reasoning = message.get("content"), message.get("reasoning")
    if not isinstance(content, str):
        raise InputError(f"{where}.content is of type {type(content).__name__}; it must be a string")
    if reasoning is not None and not isinstance(reasoning, str):
        raise InputError(f"{where}.reasoning is of type {type(reasoning).__name__}; it must be a string")
    try:
        role = Role(message.get("role"))  # type: ignore[arg-type]  # anything else is the error below
    except ValueError:
        raise InputError(f"{where}.role is unknown; it must be one of {', '.join(Role)}") from None
    return Message(role, content, reasoning)
