"""Finds the part of a judged text that may be shown, and which of two judged prompts counts."""

from collections.abc import Sequence
from dataclasses import replace

from streamward.decisions import combine, token_action
from streamward.policy import Policy
from streamward.schema import Action, Decision, Result, Side, Span, Verdict


def releasable_end(policy: Policy, verdicts: Sequence[Verdict], decision: Decision) -> int:
    """Return how many characters of a growing response may be shown.

    Args:
        policy: In force.
        verdicts: Those of its tokens so far.
        decision: What follows from them.
    """
    if is_stopped(decision) and decision.position is not None:
        verdicts = verdicts[: decision.position + 1]
    held: Span | None = None  # span of the first token over the threshold behind the last clear one
    for verdict in reversed(verdicts):
        if token_action(policy, Side.RESPONSE, verdict).severity < Action.REPLACE.severity:
            end = 0 if verdict.span is None else verdict.span.end
            return end if held is None else min(end, held.start)  # two tokens can share a character
        held = verdict.span
    return 0


def is_stopped(decision: Decision) -> bool:
    """Return true if nothing more of a text may be shown."""
    return decision.action.severity >= Action.REPLACE.severity


def with_prompt(result: Result, earlier: Result) -> Result:
    """Return a result in which an earlier prompt of the same conversation counts; the worse prompt is the one shown."""
    decision = combine(result.decision, earlier.decision)
    levels = [-1 if each.prompt is None else each.prompt.risk_level.severity for each in (result, earlier)]
    is_worse = decision is not result.decision or (result.prompt is not None and levels[1] > levels[0])
    return replace(result, decision=decision, prompt=earlier.prompt if is_worse else result.prompt)
