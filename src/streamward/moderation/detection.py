"""Decisions on the findings of a policy's detectors."""

from collections.abc import Sequence

from streamward.decisions import ALLOWED, combine
from streamward.detectors.detectors import Detectors, compiled
from streamward.detectors.finding import DetectorAction, DetectorFinding, DetectorTarget
from streamward.detectors.masker import mask_text
from streamward.detectors.stream import SpanEdit
from streamward.moderation.conversation import Conversation
from streamward.policy import Policy
from streamward.schema import Action, Decision, Side

_ACTIONS = {DetectorAction.FLAG: Action.FLAG, DetectorAction.BLOCK: Action.BLOCK}


def finding_decision(findings: Sequence[DetectorFinding | SpanEdit], side: Side) -> Decision:
    """Return what follows from what detectors found: the first of the most severe counts; masking allows."""
    decision = ALLOWED
    for each in findings:
        action = _ACTIONS.get(each.action)
        if action is not None:
            decision = combine(decision, Decision(action, side, risk_level=None, detector=each.id))
    return decision


def decide_findings(policy: Policy, conversation: Conversation) -> Decision:
    """Return what follows from what a policy's detectors find in the turns that are judged."""
    decision = decide_prompt_findings(policy, conversation)
    if conversation.response is None or not policy.detectors:
        return decision
    detectors = response_detectors(policy)
    found = mask_text(detectors, conversation.response.content).findings
    return combine(decision, finding_decision(found, Side.RESPONSE))


def decide_prompt_findings(policy: Policy, conversation: Conversation) -> Decision:
    """Return what follows from what a policy's detectors find in the prompt."""
    detectors = compiled(policy.detectors).for_target(DetectorTarget.PROMPT)
    decision = ALLOWED
    if not detectors or not conversation.has_prompt:
        return decision
    for turns in (conversation.before_tools, conversation.context):
        if turns:
            found = mask_text(detectors, turns[-1].content).findings
            decision = combine(decision, finding_decision(found, Side.PROMPT))
    return decision


def response_detectors(policy: Policy) -> Detectors:
    """Return a policy's detectors that read responses."""
    return compiled(policy.detectors).for_target(DetectorTarget.RESPONSE)


def logged(policy: Policy, text: str, side: Side) -> str:
    """Return a text as a log may keep it: with what the policy's detectors mask."""
    target = DetectorTarget.PROMPT if side is Side.PROMPT else DetectorTarget.RESPONSE
    detectors = compiled(policy.detectors).for_target(target)
    return mask_text(detectors, text).text if detectors else text
