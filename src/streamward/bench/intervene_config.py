"""Settings of `streamward bench-intervene`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from streamward.ladder import LadderAction, LadderStep, ReleasePolicy
from streamward.policy import Policy, SidePolicy
from streamward.schema import Action
from streamward.settings import Settings

CHECKED = "checked"
"""The variant without interventions, which the answers of ordinary prompts are compared with."""
UNGUARDED = "unguarded"
"""The answers that the model gives without a guard."""
_BUDGETED = (LadderAction.REGENERATE, LadderAction.INTROSPECT)


class InterveneBenchConfig(Settings):
    """Settings of one comparison."""

    num_risky: int = Field(default=200, ge=0, le=200)
    """Risky prompts."""
    num_ordinary: int = Field(default=200, ge=0, le=200)
    """Ordinary prompts."""
    max_tokens: int = Field(default=96, ge=1, le=512)
    """Longest answer."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the first call."""
    hold_tokens: tuple[Annotated[int, Field(ge=1)], ...] = (10, 20, 40, 80)
    """Buffers compared; b of CARE."""
    attempts: tuple[Annotated[int, Field(ge=1)], ...] = (1, 3, 5)
    """Attempts compared; N of CARE."""
    batch: int = Field(default=32, ge=1, le=64)
    """Answers that the model writes at the same time."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None: as many as there are cores."""


@dataclass(frozen=True, slots=True)
class InterveneVariant:
    """One ladder with one buffer.

    Attributes:
        action: Its first step; None for the mode `checked`.
        hold_tokens: Judged tokens that are held.
        attempts: Attempts of the first step.
    """

    action: LadderAction | None
    hold_tokens: int = 0
    attempts: int = 1

    @property
    def name(self) -> str:
        """Name of the variant."""
        if self.action is None:
            return CHECKED
        number = f"-n{self.attempts}" if self.action in _BUDGETED else ""
        return f"{self.action}-b{self.hold_tokens}{number}"

    def release(self) -> ReleasePolicy | None:
        """Return how text leaves; None for the mode `checked`."""
        if self.action is None:
            return None
        steps = [LadderStep(action=self.action, attempts=self.attempts)]
        if self.action in _BUDGETED:
            steps.append(LadderStep(action=LadderAction.STOP))
        return ReleasePolicy(mode="intervene", hold_tokens=self.hold_tokens, ladder=tuple(steps))


def loop_policy() -> Policy:
    """Return the policy of the guard in the loop: prompts are let through, so that answers to risky ones are seen."""
    return Policy(name=CHECKED, prompt=SidePolicy(unsafe=Action.ALLOW, controversial=Action.ALLOW))


def variants(config: InterveneBenchConfig) -> Iterator[InterveneVariant]:
    """Yield all that is compared."""
    yield InterveneVariant(None)
    for hold_tokens in config.hold_tokens:
        for action in (LadderAction.STOP, LadderAction.REFUSE):
            yield InterveneVariant(action, hold_tokens)
        for action in _BUDGETED:
            for attempts in config.attempts:
                yield InterveneVariant(action, hold_tokens, attempts)
