"""Verdicts in the words of others: Azure's content filter results, OpenAI's `moderation` field."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from streamward.errors import InputError
from streamward.gateway.strict_json import JsonObject
from streamward.policy import CategoryPolicy, Policy, SidePolicy
from streamward.rules.rule import Rule
from streamward.schema import Action, Category, Decision, RiskLevel, Side, SideResult

MODEL = "streamward"
"""Names the guard in results; a request's `moderation.model` chooses none."""
Mode = Literal["score", "block"]
Describe = Callable[[SideResult], JsonObject]
"""Gives `flagged`, `categories`, `category_scores` and `category_applied_input_types` of OpenAI's moderation result."""

_AZURE: Mapping[Category, str] = {
    Category.VIOLENT: "violence",
    Category.SEXUAL: "sexual",
    Category.SELF_HARM: "self_harm",
    Category.UNETHICAL: "hate",
    Category.JAILBREAK: "jailbreak",
    Category.COPYRIGHT: "protected_material_text",
}
_SEVERITY: Mapping[RiskLevel, str] = {
    RiskLevel.SAFE: "safe",
    RiskLevel.CONTROVERSIAL: "medium",
    RiskLevel.UNSAFE: "high",
}
_GRADED = ("hate", "self_harm", "sexual", "violence")
_DETECTED: Mapping[Side, tuple[str, ...]] = {Side.PROMPT: ("jailbreak",), Side.RESPONSE: ("protected_material_text",)}


@dataclass(frozen=True, slots=True)
class Asked:
    """The options that a request states for the guard, in its field `moderation` and otherwise.

    Attributes:
        has_moderation: Whether the answer is to carry `moderation`.
        modes: What the request wants done, by side; a side it does not name is left to the policy.
        has_annotations: Whether the answer is to carry Azure's results.
    """

    has_moderation: bool = False
    modes: Mapping[Side, Mode] = field(default_factory=dict)
    has_annotations: bool = False


def read_asked(body: JsonObject, *, has_annotations: bool) -> Asked:
    """Take the field `moderation` out of a request.

    Raises:
        InputError: It is malformed.
    """
    given = body.pop("moderation", None)
    if given is None:
        return Asked(has_annotations=has_annotations)
    moderation = _object(given, "moderation", {"model", "policy"})
    if not isinstance(moderation.get("model", ""), str):
        raise InputError("moderation.model must be a string")
    policy = _object(moderation.get("policy"), "moderation.policy", {"input", "output"})
    modes: dict[Side, Mode] = {}
    for name, side in (("input", Side.PROMPT), ("output", Side.RESPONSE)):
        part = _object(policy.get(name), f"moderation.policy.{name}", {"mode"})
        mode = part.get("mode")
        if mode == "score" or mode == "block":
            modes[side] = mode
        elif part:
            raise InputError(f"moderation.policy.{name}.mode must be score or block")
    return Asked(True, modes, has_annotations)


def _object(value: object, where: str, keys: set[str]) -> JsonObject:
    if value is None:
        return {}
    if not isinstance(value, dict) or not value.keys() <= keys:
        raise InputError(f"{where} must be an object with the keys {', '.join(sorted(keys))} only")
    return value


def adapt(policy: Policy, asked: Asked, *, may_relax: bool) -> Policy:
    """Return the policy with the modes a request asks for.

    `block` makes of every flag a block. `score` makes of every block and replacement a flag.

    Raises:
        InputError: It asks for scores where the policy acts, and it may not.
    """
    changes: dict[str, SidePolicy] = {}
    own = list(policy.rules)
    for side, mode in asked.modes.items():
        rules = policy.side(side)
        actions = {Action.FLAG: Action.BLOCK} if mode == "block" else _RELAXED
        changed = _rewritten(rules, actions)
        is_rewritten = changed != rules or any(rule.action in actions for rule in policy.rules_for(side))
        if mode == "score" and is_rewritten and not may_relax:
            name = "input" if side is Side.PROMPT else "output"
            raise InputError(
                f"moderation.policy.{name}.mode is score, but the policy here blocks and requests may not relax it"
                " (may_relax); ask for block, or leave it out"
            )
        changes[side.value] = changed
        own = [_with_action(rule, side, actions) for rule in own]
    return policy.model_copy(update={**changes, "rules": tuple(own)} if changes else {})


def _with_action(rule: Rule, side: Side, actions: Mapping[Action, Action]) -> Rule:
    """Return a rule with another action, where it has one of its own and is judged on a side."""
    if side not in rule.sides or rule.action is None or rule.action not in actions:
        return rule
    return rule.model_copy(update={"action": actions[rule.action]})


_RELAXED = {Action.BLOCK: Action.FLAG, Action.REPLACE: Action.FLAG}


def _rewritten(rules: SidePolicy, actions: Mapping[Action, Action]) -> SidePolicy:
    def changed(part: SidePolicy | CategoryPolicy) -> dict[str, Action]:
        named = {"unsafe": part.unsafe, "controversial": part.controversial}
        return {name: actions[action] for name, action in named.items() if action is not None and action in actions}

    categories = {name: each.model_copy(update=changed(each)) for name, each in rules.categories.items()}
    return rules.model_copy(update={**changed(rules), "categories": categories})


def azure_results(judgement: SideResult | None, decision: Decision, *, side: Side) -> JsonObject:
    """Return `content_filter_results` of one text.

    Categories that Azure has no name for stand under `streamward`, as every level and category does.
    """
    if judgement is None:
        message = "The contents are not filtered"
        return {"error": {"code": "content_filter_error", "message": message}}
    is_filtered = decision.side is side and decision.action.severity >= Action.REPLACE.severity
    found = None if judgement.category is None else _AZURE.get(judgement.category)
    level = judgement.risk_level
    results: JsonObject = {
        name: {
            "filtered": is_filtered and name == found,
            "severity": _SEVERITY[level if name == found else RiskLevel.SAFE],
        }
        for name in _GRADED
    }
    for name in _DETECTED[side]:
        results[name] = {"filtered": is_filtered and name == found, "detected": name == found}
    own: JsonObject = {
        "filtered": is_filtered,
        "risk_level": level.value,
        "category": None if judgement.category is None else judgement.category.value,
    }
    if judgement.rules:
        own["rules"] = [rule.id for rule in judgement.rules]
    return {**results, "streamward": own}


def blocked_error(judgement: SideResult | None, decision: Decision) -> JsonObject:
    """Return the body of an answer to a prompt that was blocked, as Azure and OpenAI shape it."""
    message = "The prompt was stopped by this gateway's content policy. Change it and try again."
    inner = {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": azure_results(judgement, decision, side=Side.PROMPT),
    }
    error = {"message": message, "type": "invalid_request_error", "param": "prompt", "code": "content_filter"}
    return {"error": {**error, "status": 400, "innererror": inner}}


def moderation_of(
    judgements: Sequence[SideResult | None], error: str | None, *, describe: Describe, is_list: bool
) -> JsonObject:
    """Return one side of an answer's `moderation`.

    Args:
        judgements: What the guard said of each text; None where it could not.
        error: Why it could not.
        describe: See `Describe`.
        is_list: Whether results stand in a list, as in chat completions; `/v1/responses` has one.
    """
    judged = [judgement for judgement in judgements if judgement is not None]
    if not judged or len(judged) < len(judgements):
        return {"type": "error", "code": error or "not_judged", "message": "The text was not judged."}
    results: list[JsonObject] = [
        {"type": "moderation_result", "model": MODEL, **describe(judgement)} for judgement in judged
    ]
    return {"type": "moderation_results", "model": MODEL, "results": results} if is_list else results[0]
