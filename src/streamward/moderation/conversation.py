"""A caller's conversation, checked and in one shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamward.errors import ContextLengthError, InputError
from streamward.moderation.messages import Turn, arrange, read_turn
from streamward.rules.rule import RuleScope
from streamward.schema import Message, Role

MessageLike = Message | Mapping[str, object]
_REFUSAL = "the guard judges text only and refuses what it cannot judge; leave it out, or judge it elsewhere"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns up to the one that is judged.

    Attributes:
        context: Turns up to and including the user's last; may be empty.
        response: The assistant's last turn; None if only the prompt is judged.
        before_tools: The context up to the user's own last turn, where it ends with results of tools; each of the two
            is judged as a prompt, and the worse one counts.
    """

    context: tuple[Message, ...]
    response: Message | None
    before_tools: tuple[Message, ...] = ()

    @property
    def has_prompt(self) -> bool:
        """True if there is a user turn to judge: the context ends with one."""
        return bool(self.context) and self.context[-1].role is Role.USER

    @property
    def scopes(self) -> frozenset[RuleScope]:
        """Kinds of text that are judged. A response that is yet to be written may be of both its kinds."""
        is_result = bool(self.before_tools) or (bool(self.context) and self.context[-1].is_tool_result)
        found = {RuleScope.TOOL_RESULTS if is_result else RuleScope.PROMPT}
        if self.response is None or not self.response.is_call_only:
            found.add(RuleScope.RESPONSE)
        if self.response is None or self.response.has_calls:
            found.add(RuleScope.TOOL_ARGUMENTS)
        return frozenset(found)

    @property
    def is_blank(self) -> bool:
        """True if there is no text in any turn that is judged."""
        judged = [turns[-1] for turns in (self.context, self.before_tools) if turns and turns[-1].role is Role.USER]
        if self.response is not None:
            judged.append(self.response)
        return all(map(_is_blank, judged))


def read_conversation(
    *,
    prompt: str | None = None,
    response: str | None = None,
    messages: Sequence[MessageLike] | None = None,
    max_chars: int,
    may_be_blank: bool = False,
) -> Conversation:
    """Check what the caller gave.

    Args:
        prompt: The user's text.
        response: The assistant's text.
        messages: Instead of both: a conversation whose last turns are judged: the assistant's, if it ends with one,
            and the user's before it. Mappings as OpenAI's clients write them are taken too; see `read_turn`.
        max_chars: Longest conversation accepted, in characters.
        may_be_blank: Whether the turns judged may have no text, because a response is to follow.

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
    num_chars = sum(len(turn.content) + len(turn.reasoning or "") for _, turn in turns)
    if num_chars > max_chars:
        raise ContextLengthError(f"the text has {num_chars} characters; at most {max_chars} are accepted (max_chars)")
    conversation = _conversation(turns)
    if conversation.is_blank and not may_be_blank:
        raise InputError("there is nothing to judge: the text is empty or blank")
    return conversation


def _is_blank(turn: Message) -> bool:
    return not (turn.content.strip() or (turn.reasoning or "").strip())


def _conversation(turns: Sequence[Turn]) -> Conversation:
    response = turns[-1][1] if turns[-1][1].role is Role.ASSISTANT else None
    context, before_tools = arrange(turns if response is None else turns[:-1])
    if response is None and not any(turn.role is Role.USER for turn in context):
        raise InputError(
            f"the last message has the role {turns[-1][0]}, and none is a user's or an assistant's to judge"
        )
    return Conversation(context, response, before_tools)


def _turns(prompt: str | None, response: str | None) -> list[Turn]:
    for name, text in (("prompt", prompt), ("response", response)):
        if text is not None and not isinstance(text, str):
            raise InputError(f"{name} is of type {type(text).__name__}; it must be a string")
    if prompt is None and response is None:
        raise InputError("there is nothing to judge; give prompt, response or messages")
    turns = [] if prompt is None else [("user", Message(Role.USER, prompt))]
    return turns if response is None else [*turns, ("assistant", Message(Role.ASSISTANT, response))]


def _read_messages(messages: Sequence[MessageLike]) -> list[Turn]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError(f"messages is of type {type(messages).__name__}; it must be a list of messages")
    if not messages:
        raise InputError("messages is empty; it must hold at least one message")
    return [
        (message.role.value, message)
        if isinstance(message, Message)
        else read_turn(message, where=f"messages[{index}]", refusal=_REFUSAL)
        for index, message in enumerate(messages)
    ]
