"""Rows of a file: what one asks, and what came of it as JSON values."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from streamward.errors import InputError, StreamwardError
from streamward.schema import Decision, FiredRule, Result, RiskLevel, SideResult, Verdict
from streamward.suggestions import suggest
from streamward.text_files import Line

if TYPE_CHECKING:  # the command line reads rows before the slow imports
    from streamward.moderation.moderator import Moderator

ITEM_KEYS = ("prompt", "response", "messages")


class InputRow(NamedTuple):
    """One row: its number and id, what it asks, or what is wrong with it."""

    label: dict[str, object]
    item: dict[str, object] | None
    problem: str | None


def read_row(line: Line) -> InputRow:
    """Read a line of JSONL."""
    label: dict[str, object] = {"line": line.number}
    if line.text is None:
        return InputRow(label, None, line.problem)
    try:
        raw = json.loads(line.text)
    except json.JSONDecodeError as error:
        return InputRow(label, None, f"the line is not JSON from character {error.pos + 1} on")
    except (ValueError, RecursionError):  # a number of thousands of digits, or objects nested as deeply
        return InputRow(
            label, None, "the line is not JSON that can be read: it has too long a number or too deep a nesting"
        )
    if not isinstance(raw, dict):
        return InputRow(label, None, "the line is not a JSON object")
    row = read_values(raw, line.number)
    if row.item:
        return row
    near = next((near for name in raw if (near := suggest(name, ITEM_KEYS))), "")
    return InputRow(
        row.label, None, f"the row has none of the keys {', '.join(ITEM_KEYS)}, so there is nothing to judge{near}"
    )


def read_values(values: Mapping[str, object], number: int) -> InputRow:
    """Take a row apart; keys that say nothing to us are ignored."""
    label: dict[str, object] = {"line": number}
    if isinstance(values.get("id"), str | int):
        label = {"id": values["id"], **label}
    return InputRow(label, {name: values[name] for name in ITEM_KEYS if values.get(name) is not None}, None)


def judge_row(guard: "Moderator", row: InputRow) -> Result | StreamwardError:
    """Judge a row by itself; what keeps it from being judged is returned."""
    if row.item is None:
        return InputError(row.problem or "")
    try:
        return guard.moderate(**row.item)  # type: ignore[arg-type]  # checked there
    except StreamwardError as error:
        return error


def answer_json(row: InputRow, answer: Result | StreamwardError, *, has_verdicts: bool = False) -> dict[str, Any]:
    """Return a row's answer as JSON values, with its number and id."""
    if isinstance(answer, Result):
        return {**row.label, **result_json(answer, has_verdicts=has_verdicts)}
    return {**row.label, "error": {"code": answer.code, "message": str(answer)}}


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


def _side_json(side: SideResult | None, *, has_verdicts: bool) -> dict[str, Any]:
    if side is None:  # the guard failed
        names = (
            "risk_level",
            "category",
            "categories",
            "rules",
            "probabilities",
            "thresholds",
            "first_flagged_char",
            "first_flagged_token",
            "refusal",
        )
        return {**dict.fromkeys(names), "windows": 0, "num_tokens": 0, "tokens": 0}
    values: dict[str, Any] = {
        "risk_level": side.risk_level,
        "category": side.category,
        "categories": list(side.categories),
        "rules": _rules_json(side.rules),
        "probabilities": _rounded(side.probabilities),
        "thresholds": {level: side.thresholds.get(level) for level in (RiskLevel.CONTROVERSIAL, RiskLevel.UNSAFE)},
        "first_flagged_char": side.first_flagged_char,
        "first_flagged_token": side.first_flagged_token,
        "refusal": side.refusal,
        "windows": side.windows,
        "num_tokens": side.num_tokens,
        "tokens": side.num_tokens,  # its former name, until the next release
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
        "rules": _rules_json(verdict.rules),
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
        "rules": _rules_json(decision.rules),
    }


def _rules_json(rules: Sequence[FiredRule]) -> list[dict[str, str | float]]:
    return [{"id": rule.id, "score": round(rule.score, 4)} for rule in rules]


def _rounded(probabilities: Any) -> dict[str, float]:
    return {level: round(value, 4) for level, value in probabilities.items()}
