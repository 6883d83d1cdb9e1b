"""Judgements of Gen guards, wherever they run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streamward.schema import Category, Message, RiskLevel


@dataclass(frozen=True, slots=True)
class GenJudgement:
    """A Gen guard's judgement of the last message of a conversation.

    Attributes:
        risk_level: The level named.
        probabilities: Probability of each level; they sum to 1.
        categories: Kinds of harm, the most probable first.
        refusal: Whether a response declines to help; None for prompts, or if the guard did not say.
        windows: Number of overlapping windows the message was judged in; the worst of them counts.
    """

    risk_level: RiskLevel
    probabilities: Mapping[RiskLevel, float]
    categories: tuple[Category, ...]
    refusal: bool | None
    windows: int = 1


class GenGuard(Protocol):
    """Judges whole texts."""

    def judge(self, messages: Sequence[Message]) -> GenJudgement:
        """Judge the last message, of the user or the assistant, in the light of those before it.

        Raises:
            UpstreamError: The guard runs elsewhere and failed, or its answer cannot be read.
            CheckpointError: The guard's weights are damaged.
            ContextLengthError: The conversation does not fit.
        """
        ...

    def close(self) -> None:
        """Free what the guard holds."""
        ...
