"""Shapes that more than one route reads or writes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamward.errors import InputError
from streamward.schema import Decision, Judgement, Message, Result, RiskLevel, Role
from streamward.server.policy_folder import KeptPolicy
from streamward.settings import Settings

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Lenient(BaseModel):
    """A request in another project's shape: what we do not know in it is left alone, as that project does."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class TextPart(Lenient):
    """A part of a message that is text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class OtherPart(Lenient):
    """A part of a message that is no text; it is refused, for it cannot be judged."""

    type: str


class ChatTurn(Lenient):
    """A message in OpenAI's shape."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[TextPart | OtherPart, ...] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None

    def message(self, *, index: int) -> Message:
        """Return the message.

        Raises:
            InputError: A part is no text.
        """
        role = Role.SYSTEM if self.role == "developer" else Role(self.role)
        text = self.refusal if self.content is None and self.refusal is not None else self.content
        reasoning = self.reasoning_content if role is Role.ASSISTANT else None
        return Message(role, text_of(text or "", where=f"messages[{index}].content"), reasoning)


class Turn(Settings):
    """A message."""

    role: Role
    content: str
    reasoning: str | None = None
    """An assistant's thoughts before the answer."""

    @property
    def message(self) -> Message:
        """The same as plain data."""
        return Message(self.role, self.content, self.reasoning)


class PolicyInForce(Settings):
    """Which policy decided."""

    name: str
    version: str
    digest: str
    """Tells apart policies of one name and version."""

    @classmethod
    def of(cls, kept: KeptPolicy) -> "PolicyInForce":
        """Name a policy."""
        return cls(name=kept.policy.name, version=kept.policy.version, digest=kept.digest)


class Judged(Settings):
    """A result."""

    decision: Decision
    prompt: Judgement | None = None
    response: Judgement | None = None

    @classmethod
    def of(cls, result: Result, *, has_verdicts: bool = True) -> "Judged":
        """Return a result, without the verdict of every token if so wished."""
        return cls(
            decision=result.decision,
            prompt=_side(result.prompt, has_verdicts=has_verdicts),
            response=_side(result.response, has_verdicts=has_verdicts),
        )


def _side(judgement: Judgement | None, *, has_verdicts: bool) -> Judgement | None:
    if judgement is None or has_verdicts:
        return judgement
    return replace(judgement, verdicts=())


def text_of(content: str | Sequence[TextPart | OtherPart], *, where: str) -> str:
    """Return a content's text; parts are joined by line ends.

    Raises:
        InputError: A part is no text.
    """
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, TextPart):
            raise InputError(f"{where}[{index}] is no text; this guard judges text only")
        texts.append(part.text)
    return "\n".join(texts)


def risk_of(probabilities: Mapping[RiskLevel, float]) -> float:
    """Return P(Unsafe) + P(Controversial)."""
    return probabilities[RiskLevel.UNSAFE] + probabilities[RiskLevel.CONTROVERSIAL]
