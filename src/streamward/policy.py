"""Verdict -> Decision: thresholds, consecutive-token rule, actions by level, side and category."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from streamward.detectors.config import DetectorConfig
from streamward.errors import ConfigError
from streamward.schema import Action, Category, RiskLevel, Side, Verdict
from streamward.settings import Settings, read_toml
from streamward.suggestions import suggest

RESPONSE_CONSECUTIVE_TOKENS = 2
_CONSECUTIVE_TOKENS: Mapping[Side, int] = {Side.PROMPT: 1, Side.RESPONSE: RESPONSE_CONSECUTIVE_TOKENS}
"""Defaults: a single response token over the threshold is often noise, two in a row seldom are."""


def _possible_without_verdict(action: Action) -> Action:
    if action is Action.REPLACE:
        raise ValueError("replace is not possible when the guard failed; use allow, flag or block")
    return action


Probability = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
ErrorAction = Annotated[Action, AfterValidator(_possible_without_verdict)]


class Thresholds(Settings):
    """Thresholds between the risk levels."""

    unsafe: Probability | None = None
    """Unsafe when P(Unsafe) reaches this. None: when the guard's own operating point says Unsafe."""
    controversial: Probability | None = None
    """Else Controversial when P(Unsafe) + P(Controversial) reaches this. None: when the guard says it or worse."""


class CategoryPolicy(Settings):
    """What one category changes; None leaves what its side says."""

    unsafe: Action | None = None
    """Action when text of this category is Unsafe."""
    controversial: Action | None = None
    """Action when text of this category is Controversial."""
    thresholds: Thresholds = Thresholds()
    """Thresholds for this category. They apply where the guard names it: text the guard calls Safe has no category."""


_NO_OVERRIDE = CategoryPolicy()


class SidePolicy(Settings):
    """What happens to one side of the conversation."""

    consecutive_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Successive tokens that must be over the threshold. None: 1 for prompts, 2 for responses."""
    unsafe: Action = Action.BLOCK
    """Action when the text is Unsafe."""
    controversial: Action = Action.BLOCK
    """Action when the text is Controversial: block in strict, allow in loose."""
    thresholds: Thresholds = Thresholds()
    """Thresholds for all categories; by default the operating point the guard ships with."""
    categories: Mapping[Category, CategoryPolicy] = {}
    """Exceptions, by category name."""

    def level(self, verdict: Verdict) -> RiskLevel:
        """Return the level of one verdict under these thresholds, before any consecutive-token rule."""
        own, probabilities = self.thresholds, verdict.probabilities
        special = self._override(verdict.category).thresholds
        unsafe = own.unsafe if special.unsafe is None else special.unsafe
        controversial = own.controversial if special.controversial is None else special.controversial
        if _reaches(verdict, RiskLevel.UNSAFE, probabilities[RiskLevel.UNSAFE], threshold=unsafe):
            return RiskLevel.UNSAFE
        if _reaches(verdict, RiskLevel.CONTROVERSIAL, total_risk(verdict), threshold=controversial):
            return RiskLevel.CONTROVERSIAL
        return RiskLevel.SAFE

    def thresholds_for(self, category: Category | None, own: Mapping[RiskLevel, float]) -> Mapping[RiskLevel, float]:
        """Return the thresholds in force.

        Args:
            category: The kind of harm that the guard names.
            own: Thresholds of the guard, which count where this policy states none.
        """
        thresholds = {**own}
        for stated in (self.thresholds, self._override(category).thresholds):
            for level, value in ((RiskLevel.UNSAFE, stated.unsafe), (RiskLevel.CONTROVERSIAL, stated.controversial)):
                if value is not None:
                    thresholds[level] = value
        return thresholds

    def action(self, level: RiskLevel, category: Category | None) -> Action:
        """Return what to do about text of this level and category; Safe is always allowed."""
        special = self._override(category)
        match level:
            case RiskLevel.UNSAFE:
                return special.unsafe or self.unsafe
            case RiskLevel.CONTROVERSIAL:
                return special.controversial or self.controversial
            case RiskLevel.SAFE:
                return Action.ALLOW

    def _override(self, category: Category | None) -> CategoryPolicy:
        return _NO_OVERRIDE if category is None else self.categories.get(category, _NO_OVERRIDE)


def _reaches(verdict: Verdict, level: RiskLevel, probability: float, *, threshold: float | None) -> bool:
    if threshold is None:
        return verdict.risk_level.severity >= level.severity
    return probability >= threshold


def total_risk(verdict: Verdict) -> float:
    """Return P(Unsafe) + P(Controversial)."""
    return verdict.probabilities[RiskLevel.UNSAFE] + verdict.probabilities[RiskLevel.CONTROVERSIAL]


class FailurePolicy(Settings):
    """What happens when the guard cannot judge: allow, flag or block."""

    prompt: ErrorAction = Action.BLOCK
    """Action when a prompt could not be judged."""
    response: ErrorAction = Action.BLOCK
    """Action when a response, or the next token of one, could not be judged."""


class TextRetention(Settings):
    """Whether a service that logs its decisions keeps the texts they are about."""

    text: Literal["never", "flagged", "always"] = "never"
    """never: only a hash. flagged: where the action is not allow. always: everything."""
    days: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """How long a text is kept."""


class Policy(Settings):
    """What an operator wants done about which risk. Build it from TOML with `Policy.load`."""

    name: str = Field(min_length=1)
    """Named in results and logs."""
    version: str = Field(default="1", min_length=1)
    """Changes whenever the policy does, so that a result can be traced to it."""
    prompt: SidePolicy = SidePolicy()
    """What the user may say."""
    response: SidePolicy = SidePolicy()
    """What the assistant may say."""
    on_error: FailurePolicy = FailurePolicy()
    """What happens when the guard cannot judge; blocks by default."""
    recording: TextRetention = TextRetention()
    """Whether texts are logged; by default they are not."""
    replacement: str | None = Field(default=None, min_length=1)
    """What to say instead of the text; needed if any action is replace."""
    detectors: tuple[DetectorConfig, ...] = ()
    """What is found by its form: personal data, keys, words and expressions of the policy's own."""

    @model_validator(mode="after")
    def _names_detectors_once(self) -> Self:
        names = [each.name for each in self.detectors]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"two detectors are called {repeated}; give one of them another `id`")
        return self

    @model_validator(mode="after")
    def _has_a_replacement_where_needed(self) -> Self:
        sides = (self.prompt, self.response)
        rules: list[SidePolicy | CategoryPolicy] = [*sides]
        rules += [override for side in sides for override in side.categories.values()]
        actions = {action for each in rules for action in (each.unsafe, each.controversial)}
        if Action.REPLACE in actions and self.replacement is None:
            raise ValueError("an action is replace, so `replacement` must give the message to say instead")
        return self

    @classmethod
    def load(cls, source: "str | Path | Policy") -> "Policy":
        """Return the policy meant.

        Args:
            source: "strict", "loose", the path of a TOML file, or a policy, which is returned as it is.

        Raises:
            ConfigError: There is no such policy or file, or a key or value in it is wrong.
        """
        if isinstance(source, Policy):
            return source
        if not isinstance(source, str | Path):
            raise ConfigError(f"policy is a {type(source).__name__}; it must be a name, a path or a Policy")
        if isinstance(source, str) and source in _NAMED:
            return _NAMED[source]
        try:
            values = read_toml(Path(source), what="policy")
        except FileNotFoundError as error:
            raise ConfigError(
                f"policy {str(source)!r} not found; it must be {', '.join(_NAMED)} or the path of a TOML file"
                f"{suggest(str(source), _NAMED)}"
            ) from error
        return cls.parse(values, source=str(source))

    def side(self, side: Side) -> SidePolicy:
        """Return the part about one side."""
        return self.prompt if side is Side.PROMPT else self.response

    def consecutive_tokens(self, side: Side) -> int:
        """Return how many successive tokens of a side must be over the threshold."""
        return self.side(side).consecutive_tokens or _CONSECUTIVE_TOKENS[side]


STRICT = Policy(name="strict", prompt=SidePolicy(consecutive_tokens=1), response=SidePolicy(consecutive_tokens=2))
"""Blocks Unsafe and Controversial on both sides."""

LOOSE = Policy(
    name="loose",
    prompt=SidePolicy(consecutive_tokens=1, controversial=Action.ALLOW),
    response=SidePolicy(consecutive_tokens=2, controversial=Action.ALLOW),
)
"""Blocks Unsafe, allows Controversial."""

_NAMED: Mapping[str, Policy] = {policy.name: policy for policy in (STRICT, LOOSE)}
