"""Results for people."""

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from streamward.schema import Action, Decision, Result, RiskLevel, SideResult

_LEVEL_STYLES = {RiskLevel.SAFE: "green", RiskLevel.CONTROVERSIAL: "yellow", RiskLevel.UNSAFE: "bold red"}
_ACTION_STYLES = {Action.ALLOW: "green", Action.FLAG: "yellow", Action.REPLACE: "bold red", Action.BLOCK: "bold red"}


def show_result(result: Result, *, title: str | None = None) -> None:
    """Print a result: a line for each side, one for the decision."""
    console = Console(highlight=False, soft_wrap=True)
    if title is not None:
        console.print(Text(title, style="bold"))
    for name, side in (("prompt", result.prompt), ("response", result.response)):
        if side is not None:
            console.print(describe_side(name, side))
    console.print(describe_decision(result.decision))


def describe_side(name: str, side: SideResult) -> Text:
    """Say what was found on one side."""
    text = Text(f"{name:9}")
    text.append(side.risk_level, style=_LEVEL_STYLES[side.risk_level])
    if side.category is not None:
        text.append(f"  {side.category}")
    text.append(f"  ({describe_probabilities(side)})", style="dim")
    if side.first_flagged_char is not None:
        text.append(f"  from character {side.first_flagged_char}")
    if side.refusal:
        text.append("  refusal")
    if side.windows > 1:
        text.append(f"  read in {side.windows} windows", style="dim")
    return text


def describe_probabilities(side: SideResult) -> str:
    """Say how probable each level is and, where thresholds decide, from which probability on it counts."""
    shares = ", ".join(f"{level} {value:.2f}" for level, value in side.probabilities.items())
    return f"{shares}; {describe_thresholds(side.thresholds)}" if side.thresholds else shares


def describe_thresholds(thresholds: Mapping[RiskLevel, float]) -> str:
    """Say from which probability on each level counts."""
    names = {RiskLevel.UNSAFE: "Unsafe", RiskLevel.CONTROVERSIAL: "Unsafe and Controversial together"}
    stated = [f"{name} {thresholds[level]:.2f}" for level, name in names.items() if level in thresholds]
    return f"thresholds: {', '.join(stated)}" if stated else "no thresholds: the most probable level counts"


def describe_decision(decision: Decision) -> Text:
    """Say what to do, and why."""
    text = Text("decision ")
    text.append(decision.action, style=_ACTION_STYLES[decision.action])
    if decision.error is not None:
        text.append(f"  the guard could not judge the {decision.side}: {decision.error}")
    elif decision.side is not None:
        text.append(f"  because of the {decision.side}")
    if decision.message is not None:
        text.append(f"  say instead: {decision.message}")
    return text
