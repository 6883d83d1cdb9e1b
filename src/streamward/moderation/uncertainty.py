"""Finds the places at which a guard is unsure, and decides what it judges alone when a second guard is asked there."""

from collections.abc import Mapping

from streamward.policy import Policy, SidePolicy, Thresholds
from streamward.schema import Action, Category, RiskLevel


def first_guard_policy(policy: Policy, upper: float) -> Policy:
    """Return the policy that the first guard decides by: it flags by itself only where it is sure.

    Args:
        policy: In force.
        upper: Probability at and over which it is sure. Where the policy states a threshold, that one counts.
    """
    sides = {name: _with_default(getattr(policy, name), upper) for name in ("prompt", "response")}
    return policy.model_copy(update=sides)


def _with_default(side: SidePolicy, upper: float) -> SidePolicy:
    own = side.thresholds
    raised = Thresholds(
        unsafe=upper if own.unsafe is None else own.unsafe,
        controversial=upper if own.controversial is None else own.controversial,
    )
    return side.model_copy(update={"thresholds": raised})


def risk(side: SidePolicy, probabilities: Mapping[RiskLevel, float], category: Category | None) -> float:
    """Return the probability of what a policy acts on: of Unsafe, with Controversial unless that is allowed.

    Args:
        side: The part of the policy about the text.
        probabilities: Probabilities of each level.
        category: The kind of harm that the guard names.
    """
    if side.action(RiskLevel.CONTROVERSIAL, category) is not Action.ALLOW:
        return probabilities[RiskLevel.UNSAFE] + probabilities[RiskLevel.CONTROVERSIAL]
    if side.action(RiskLevel.UNSAFE, category) is not Action.ALLOW:
        return probabilities[RiskLevel.UNSAFE]
    return 0.0
