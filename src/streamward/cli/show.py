"""Results for people, and the same as JSON."""

from typing import Any

from rich.console import Console
from rich.text import Text

from streamward.schema import Action, Decision, Judgement, Result, RiskLevel, Verdict

_LEVEL_STYLES = {RiskLevel.SAFE: "green", RiskLevel.CONTROVERSIAL: "yellow", RiskLevel.UNSAFE: "bold red"}
_ACTION_STYLES = {Action.ALLOW: "green", Action.FLAG: "yellow", Action.REPLACE: "bold red", Action.BLOCK: "bold red"}


def result_json(result: Result, *, has_verdicts: bool = False) -> dict[str, Any]:  # Any: JSON values
    """Return a result as JSON values: the side that decided on top, then the decision and both sides.

    Args:
        result: From a moderator.
        has_verdicts: Include the verdict of every token.
    """
    sides = {"prompt": result.prompt, "response": result.response}
    top = None if result.decision.side is None else sides[result.decision.side]
    if top is None:
        judged = [side for side in sides.values() if side is not None]
        top = max(judged, key=lambda side: side.risk_level.severity, default=None)
    return {
        **_side_json(top, has_verdicts=False),
        "decision": _decision_json(result.decision),
        **{name: side and _side_json(side, has_verdicts=has_verdicts) for name, side in sides.items()},
    }


def _side_json(side: Judgement | None, *, has_verdicts: bool) -> dict[str, Any]:
    if side is None:  # the guard failed
        names = ("risk_level", "category", "probabilities", "first_flagged_char", "first_flagged_token", "refusal")
        return {**dict.fromkeys(names), "windows": 0, "tokens": 0}
    first = side.first_flagged
    values: dict[str, Any] = {
        "risk_level": side.risk_level,
        "category": side.category,
        "probabilities": _rounded(side.probabilities),
        "first_flagged_char": None if first is None else first.char,
        "first_flagged_token": None if first is None else first.position,
        "refusal": side.refusal,
        "windows": side.windows,
        "tokens": len(side.verdicts),
    }
    if has_verdicts:
        values["verdicts"] = [_verdict_json(verdict) for verdict in side.verdicts]
    return values


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "position": verdict.position,
        "risk_level": verdict.risk_level,
        "category": verdict.category,
        "probabilities": _rounded(verdict.probabilities),
        "span": verdict.span,
    }


def _decision_json(decision: Decision) -> dict[str, Any]:
    return {
        "action": decision.action,
        "side": decision.side,
        "risk_level": decision.risk_level,
        "category": decision.category,
        "position": decision.position,
        "message": decision.message,
        "error": decision.error,
    }


def _rounded(probabilities: Any) -> dict[str, float]:
    return {level: round(value, 4) for level, value in probabilities.items()}


def show_result(result: Result, *, title: str | None = None) -> None:
    """Print a result: a line for each side, one for the decision."""
    console = Console(highlight=False, soft_wrap=True)
    if title is not None:
        console.print(Text(title, style="bold"))
    for name, side in (("prompt", result.prompt), ("response", result.response)):
        if side is not None:
            console.print(describe_side(name, side))
    console.print(describe_decision(result.decision))


def describe_side(name: str, side: Judgement) -> Text:
    """Say what was found on one side."""
    text = Text(f"{name:9}")
    text.append(side.risk_level, style=_LEVEL_STYLES[side.risk_level])
    if side.category is not None:
        text.append(f"  {side.category}")
    shares = ", ".join(f"{level} {value:.2f}" for level, value in side.probabilities.items())
    text.append(f"  ({shares})", style="dim")
    if side.first_flagged is not None:
        text.append(f"  from character {side.first_flagged.char}")
    if side.refusal:
        text.append("  refusal")
    if side.windows > 1:
        text.append(f"  read in {side.windows} windows", style="dim")
    return text


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
