"""Texts within the frame of a prompt: a text that is judged must not be able to end its frame, or begin a turn."""

import json
import re
from collections.abc import Sequence

from streamward.errors import InputError
from streamward.policy_guards.rules import GuardRule
from streamward.schema import Message, Role
from streamward.tokenizer import clean_text

_SPECIAL = re.compile(
    r"<(?=\|[^|>\n]{1,64}\|>|(?:start|end)_of_turn>|/?(?:think|bos|eos|guardian|no-think)>)", re.IGNORECASE
)


def spoken(message: Message) -> str:
    """Return all that is said in a turn, an assistant's thoughts first."""
    parts = [message.reasoning or "", message.content]
    return clean_text("\n\n".join(part for part in parts if part))


def judged_role(messages: Sequence[Message]) -> Role:
    """Return whose turn is judged.

    Raises:
        InputError: There is no turn, or the last one is the system's.
    """
    if not messages or messages[-1].role is Role.SYSTEM:
        raise InputError("a guard judges the last turn of a conversation, which must be the user's or the assistant's")
    return messages[-1].role


def framed(text: str, *, tags: Sequence[str] = (), labels: Sequence[str] = ()) -> str:
    """Return a text that cannot be taken for a part of the frame around it; what it says stays.

    A space is put behind the `<` of control tokens (`<|eot_id|>`, `<end_of_turn>`, `<think>`) and of the frame's own
    tags, and before a line that begins as a turn does.

    Args:
        text: To be judged.
        tags: Tags of the frame, as `END CONVERSATION` or `/transcript`.
        labels: That open a turn in it, as `Agent:`.
    """
    text = _SPECIAL.sub("< ", text)
    if tags:
        text = re.sub(rf"<(?=\s*(?:{'|'.join(map(re.escape, tags))})\s*>)", "< ", text, flags=re.IGNORECASE)
    if labels:
        text = re.sub(rf"^(?=(?:{'|'.join(map(re.escape, labels))}))", " ", text, flags=re.IGNORECASE | re.MULTILINE)
    return text


def transcript(messages: Sequence[Message], labels: dict[Role, str], *, tags: Sequence[str], separator: str) -> str:
    """Render turns as lines with a label each. Turns of roles without a label are left out.

    Args:
        messages: The conversation.
        labels: What opens a turn of a role.
        tags: Tags of the frame around it.
        separator: Between turns.
    """
    opening = list(labels.values())
    return separator.join(
        f"{labels[message.role]} {framed(spoken(message), tags=tags, labels=opening)}"
        for message in messages
        if message.role in labels
    )


def json_conversation(messages: Sequence[Message]) -> str:
    """Render a conversation as JSON, so that no text in it can be taken for anything else."""
    turns = [{"role": message.role.value, "content": spoken(message)} for message in messages]
    return json.dumps(
        {"conversation": turns, "judge": f"the last turn ({messages[-1].role.value})"}, ensure_ascii=False
    )


def rule_words(rule: GuardRule, *, bullet: str = "- ") -> str:
    """Return a rule's text, with its examples below it."""
    lines = [clean_text(rule.text.strip())]
    for title, texts in (("Violates:", rule.examples), ("Does not violate:", rule.counter_examples)):
        if texts:
            lines.append(title)
            lines += [f"{bullet}{one_line(text)}" for text in texts]
    return "\n".join(lines)


def one_line(text: str) -> str:
    """Return a text on one line."""
    return " ".join(clean_text(text).split())
