"""Verdict -> Decision: thresholds, consecutive-token rule, actions by level, side and category."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from streamward.detectors.config import DetectorConfig
from streamward.errors import ConfigError
from streamward.ladder import ReleasePolicy
from streamward.rules.examples import rule_digest
from streamward.rules.probe import ProbeBank, probe_path, read_probe
from streamward.rules.rule import Rule, RuleScope
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
    """Changes for one category; None keeps the setting of its side."""

    unsafe: Action | None = None
    """Action when text of this category is Unsafe."""
    controversial: Action | None = None
    """Action when text of this category is Controversial."""
    thresholds: Thresholds = Thresholds()
    """Thresholds for this category. They apply where the guard names it: text the guard calls Safe has no category."""


_NO_OVERRIDE = CategoryPolicy()


class SidePolicy(Settings):
    """The actions on one side of the conversation."""

    consecutive_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Successive tokens that must be over the threshold. None: 1 for prompts, 2 for responses."""
    unsafe: Action = Action.BLOCK
    """Action when the text is Unsafe."""
    controversial: Action = Action.BLOCK
    """Action when the text is Controversial: block in strict, allow in loose."""
    thresholds: Thresholds = Thresholds()
    """Thresholds for all categories; by default the operating point the guard ships with."""
    category_threshold: Probability = 0.25
    """Share among the kinds of harm from which on a further category is reported beside the primary one."""
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
    """The action when the guard cannot judge: allow, flag or block."""

    prompt: ErrorAction = Action.BLOCK
    """Action when a prompt could not be judged."""
    response: ErrorAction = Action.BLOCK
    """Action when a response, or the next token of one, could not be judged."""


class TextRetention(Settings):
    """Rules for keeping the texts of logged decisions."""

    text: Literal["never", "flagged", "always"] = "never"
    """never: only a hash. flagged: where the action is not allow. always: everything."""
    days: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Days for which a text is kept."""


class Policy(Settings):
    """An operator's actions by risk. Build it from TOML with `Policy.load`."""

    name: str = Field(min_length=1)
    """Named in results and logs."""
    version: str = Field(default="1", min_length=1)
    """Changes whenever the policy does, so that a result can be traced to it."""
    prompt: SidePolicy = SidePolicy()
    """Rules for the user's text."""
    response: SidePolicy = SidePolicy()
    """Rules for the assistant's text."""
    on_error: FailurePolicy = FailurePolicy()
    """Action when the guard cannot judge; blocks by default."""
    recording: TextRetention = TextRetention()
    """Rules for logging texts; by default they are not logged."""
    replacement: str | None = Field(default=None, min_length=1)
    """Text shown in place of a replaced one; needed if any action is replace."""
    release: ReleasePolicy | None = None
    """Rules for releasing text of a guarded model, and for changing an answer in progress. None: as the settings of
    the upstream say. Counts where answers pass through the gateway, and in `streamward.intervene`."""
    detectors: tuple[DetectorConfig, ...] = ()
    """Detectors of text by its form: personal data, keys, words and expressions of the policy's own."""
    rules: tuple[Rule, ...] = Field(default=(), max_length=100)
    """Rules of the operator's own, beside or instead of the built-in categories."""
    _probe: ProbeBank | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_different_rules(self) -> Self:
        ids = [rule.id.lower() for rule in self.rules]
        if len(set(ids)) < len(ids):
            raise ValueError("two rules have one id; upper and lower case count as the same")
        return self

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
        actions |= {rule.action for rule in self.rules}
        if Action.REPLACE in actions and self.replacement is None:
            raise ValueError("an action is replace, so `replacement` must give the message to say instead")
        return self

    @classmethod
    def load(cls, source: "str | Path | Policy", *, needs_taught_rules: bool = True) -> "Policy":
        """Return the policy meant.

        Args:
            source: "strict", "loose", the path of a TOML file, or a policy, which is returned as it is.
            needs_taught_rules: Whether rules with examples must have been taught. Without them the policy serves only
                to teach them.

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
        policy = cls.parse(values, source=str(source))
        return policy.with_taught_rules(Path(source)) if policy.taught_rules and needs_taught_rules else policy

    @property
    def taught_rules(self) -> tuple[Rule, ...]:
        """Rules that are taught from examples; the others need a guard that reads policies."""
        return tuple(rule for rule in self.rules if rule.is_taught)

    @property
    def probe(self) -> ProbeBank | None:
        """The probe of the taught rules; None if there are none."""
        return self._probe

    def with_rules(self, rules: tuple[Rule, ...]) -> "Policy":
        """Return the policy with other rules, of which the taught ones are as they were taught."""
        return self.model_copy(update={"rules": rules})

    def with_probe(self, probe: ProbeBank) -> "Policy":
        """Return the policy with rules as they were just taught."""
        other = self.model_copy()
        other._probe = probe
        return other

    def with_taught_rules(self, path: Path) -> "Policy":
        """Return the policy with what was learnt of its rules, from the file beside it.

        Args:
            path: Path of the policy.

        Raises:
            ConfigError: There is no such file, it is damaged, or a rule was not taught or has changed since.
        """
        advice = f"run `streamward teach {path.name}`"
        try:
            probe = read_probe(probe_path(path))
        except FileNotFoundError as error:
            raise ConfigError(f"{path.name} has rules with examples that were not taught yet; {advice}") from error
        learnt = {rule.rule_id: rule.digest for rule in probe.rules}
        for rule in self.taught_rules:
            if rule.id not in learnt:
                raise ConfigError(f"the rule {rule.id!r} of {path.name} was not taught; {advice}")
            if learnt[rule.id] != rule_digest(rule, path.parent):
                raise ConfigError(f"the rule {rule.id!r} of {path.name} has changed since it was taught; {advice}")
        return self.with_probe(probe)

    def rules_for(self, side: Side) -> tuple[Rule, ...]:
        """Return the rules that are judged on one side."""
        return tuple(rule for rule in self.rules if side in rule.sides)

    def for_scopes(self, scopes: Collection[RuleScope]) -> "Policy":
        """Return the policy with the rules that are about some kinds of text, each narrowed to these.

        Args:
            scopes: Kinds of text that are judged by it.
        """
        if all(scope in scopes for rule in self.rules for scope in rule.applies_to):
            return self
        kept = [(rule, tuple(scope for scope in rule.applies_to if scope in scopes)) for rule in self.rules]
        return self.with_rules(tuple(rule.model_copy(update={"applies_to": own}) for rule, own in kept if own))

    def rule_action(self, rule: Rule, side: Side) -> Action:
        """Return what to do about a text that breaks a rule."""
        return rule.action or self.side(side).action(rule.severity, None)

    def uses_categories(self, side: Side) -> bool:
        """Return whether the built-in categories count on a side: no rule there has the mode replace."""
        return all(rule.mode == "extend" for rule in self.rules_for(side))

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
