"""Release mode `intervene`: what is tried, and in which order, when an answer in progress is flagged."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from streamward.settings import Settings

DEFAULT_HOLD_TOKENS = 40
"""Value of CARE (Qwen3Guard, arXiv 2510.14276, section 4.5)."""
Language = Annotated[str, Field(pattern="^[a-z]{2,3}$")]
Wording = Annotated[str, Field(min_length=1, max_length=2000)]


class LadderAction(StrEnum):
    """One kind of intervention."""

    MASK = "mask"
    REGENERATE = "regenerate"
    INTROSPECT = "introspect"
    REWRITE = "rewrite"
    REFUSE = "refuse"
    STOP = "stop"


_GENERATING = frozenset({LadderAction.REGENERATE, LadderAction.INTROSPECT, LadderAction.REWRITE})
_WORDED = frozenset({LadderAction.INTROSPECT, LadderAction.REWRITE, LadderAction.REFUSE})
_LAST = frozenset({LadderAction.REFUSE, LadderAction.STOP})


class LadderStep(Settings):
    """One step of a ladder."""

    action: LadderAction
    """mask: replace what detectors found. regenerate: continue from the text that is kept. introspect: the same behind
    a self-check that the reader never sees. rewrite: have the dropped part rewritten by a request of its own. refuse:
    a closing sentence in place of the rest. stop: end the answer."""
    attempts: Annotated[int, Field(ge=1, le=20, strict=True)] = 1
    """Number of times that the step is tried, per answer. `refuse` and `stop` always succeed."""
    raise_temperature: float = Field(default=0.1, ge=0, le=2, allow_inf_nan=False)
    """Added to the request's temperature for each attempt of `regenerate` and `introspect`, up to 2 in all."""
    texts: Mapping[Language, Wording] = {}
    """The self-check of `introspect`, the instruction of `rewrite`, or the sentence of `refuse`, by language (ISO 639),
    as `en`. A language that is not named has the product's own wording; without one, that of `en`."""
    upstream: str | None = Field(default=None, min_length=1, max_length=64)
    """Configured server that `rewrite` asks; None: the one that answers."""
    model: str | None = Field(default=None, min_length=1, max_length=200)
    """Model that `rewrite` asks; None: the one of the request."""

    @model_validator(mode="after")
    def _has_only_what_its_action_uses(self) -> Self:
        if self.action not in _GENERATING and self.attempts != 1:
            raise ValueError(f"attempts must be 1 where action is {self.action}")
        if self.action not in _WORDED and self.texts:
            raise ValueError(f"texts are not used where action is {self.action}")
        if self.action is not LadderAction.REWRITE and (self.upstream or self.model):
            raise ValueError(f"upstream and model are not used where action is {self.action}")
        return self


DEFAULT_LADDER = (
    LadderStep(action=LadderAction.REGENERATE, attempts=2),
    LadderStep(action=LadderAction.INTROSPECT, attempts=2),
    LadderStep(action=LadderAction.REFUSE),
)


class ReleasePolicy(Settings):
    """Rules for releasing text of a guarded model. They take precedence over the settings of the upstream."""

    mode: Literal["checked", "hold", "intervene"] = "checked"
    """checked: when judged. hold: when so many tokens behind it are judged too. intervene: likewise, and text that is
    flagged is replaced while the answer goes on, as the ladder says."""
    hold_tokens: Annotated[int, Field(ge=0, le=4096, strict=True)] | None = None
    """Judged tokens at the end that are kept back. None: 40 in mode `intervene`, 0 in mode `checked`."""
    ladder: tuple[LadderStep, ...] = DEFAULT_LADDER
    """Steps of mode `intervene`, tried in this order. Behind the last step the answer is stopped."""

    @model_validator(mode="after")
    def _fits_its_mode(self) -> Self:
        if self.mode == "hold" and not self.hold_tokens:
            raise ValueError("hold_tokens must be at least 1 in mode hold")
        if self.mode == "checked" and self.hold_tokens:
            raise ValueError("hold_tokens must be left out, or 0, in mode checked")
        if self.mode != "intervene" and self.ladder != DEFAULT_LADDER:
            raise ValueError("a ladder is used in mode intervene only")
        if any(step.action in _LAST for step in self.ladder[:-1]):
            raise ValueError("refuse and stop end an answer; only the last step of a ladder may be one")
        return self

    @property
    def num_held(self) -> int:
        """Judged tokens at the end that are kept back."""
        if self.hold_tokens is None:
            return DEFAULT_HOLD_TOKENS if self.mode == "intervene" else 0
        return self.hold_tokens
