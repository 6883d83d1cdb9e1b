"""Shapes that more than one route reads or writes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from streamward.moderation.messages import ROLES
from streamward.schema import Decision, Result, RiskLevel, SideResult
from streamward.server.policy_folder import LoadedPolicy
from streamward.settings import Settings

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Lenient(BaseModel):
    """A request in another project's shape: what we do not know in it is left alone, as that project does."""

    model_config = ConfigDict(frozen=True, extra="ignore")


ChatMessage = Annotated[
    dict[str, Any],  # Any: JSON values; `streamward.moderation.messages` reads them
    WithJsonSchema(
        {
            "type": "object",
            "title": "Message",
            "description": "A message as OpenAI's clients write it.",
            "required": ["role"],
            "properties": {
                "role": {"enum": list(ROLES)},
                "content": {
                    "description": "Text, or parts of type text, input_text, output_text, refusal or thinking.",
                    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}],
                },
                "tool_calls": {"description": "Calls; they are part of the turn.", "type": ["array", "null"]},
                "reasoning": {"description": "An assistant's thoughts before the answer.", "type": ["string", "null"]},
                "reasoning_content": {"description": "The same.", "type": ["string", "null"]},
            },
        }
    ),
]
Messages = Annotated[tuple[ChatMessage, ...], Field(min_length=1)]


class PolicyInForce(Settings):
    """The policy that decided."""

    name: str
    version: str
    digest: str
    """Tells apart policies of one name and version."""

    @classmethod
    def of(cls, kept: LoadedPolicy) -> "PolicyInForce":
        """Name a policy."""
        return cls(name=kept.policy.name, version=kept.policy.version, digest=kept.digest)


class SideWire(Settings):
    """A result."""

    decision: Decision
    prompt: SideResult | None = None
    response: SideResult | None = None

    @classmethod
    def of(cls, result: Result, *, has_verdicts: bool = True) -> "SideWire":
        """Return a result, without the verdict of every token if so wished."""
        return cls(
            decision=result.decision,
            prompt=_side(result.prompt, has_verdicts=has_verdicts),
            response=_side(result.response, has_verdicts=has_verdicts),
        )


def _side(judgement: SideResult | None, *, has_verdicts: bool) -> SideResult | None:
    if judgement is None or has_verdicts:
        return judgement
    return replace(judgement, verdicts=())


def risk_of(probabilities: Mapping[RiskLevel, float]) -> float:
    """Return P(Unsafe) + P(Controversial)."""
    return probabilities[RiskLevel.UNSAFE] + probabilities[RiskLevel.CONTROVERSIAL]
