"""Decisions on the findings of a policy's detectors."""

from collections.abc import Sequence

from streamward.decisions import ALLOWED, combine
from streamward.detectors.detectors import compiled
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
    detectors = compiled(policy.detectors)
    if not detectors:
        return ALLOWED
    prompts = [turns[-1].content for turns in (conversation.before_tools, conversation.context) if turns]
    texts = [(DetectorTarget.PROMPT, Side.PROMPT, text) for text in prompts if conversation.has_prompt]
    if conversation.response is not None:
        texts.append((DetectorTarget.RESPONSE, Side.RESPONSE, conversation.response.content))
    decision = ALLOWED
    for target, side, text in texts:
        found = mask_text(detectors.for_target(target), text).findings
        decision = combine(decision, finding_decision(found, side))
    return decision


def logged(policy: Policy, text: str, side: Side) -> str:
    """Return a text as a log may keep it: with what the policy's detectors mask."""
    target = DetectorTarget.PROMPT if side is Side.PROMPT else DetectorTarget.RESPONSE
    detectors = compiled(policy.detectors).for_target(target)
    return mask_text(detectors, text).text if detectors else text
