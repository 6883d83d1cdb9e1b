"""Rules about what tools are called with, or return, are not applied to what people say, and the other way round."""

import pytest

from streamward.moderation.conversation import read_conversation
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.rules.rule import RuleScope
from streamward.schema import Action
from tests.moderation.cascades import TestSecondGuard, cascade
from tests.rules.banks import ALWAYS, policy_with, small_guard

USER = {"role": "user", "content": "what is in the file"}
CALL = {"function": {"name": "read", "arguments": '{"path": "a.txt"}'}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "secret words"}
P, R, A, T = RuleScope.PROMPT, RuleScope.RESPONSE, RuleScope.TOOL_ARGUMENTS, RuleScope.TOOL_RESULTS


@pytest.mark.parametrize(
    ("messages", "scopes"),
    [
        ([USER], {P, R, A}),  # the response is yet to come
        ([USER, {"role": "assistant", "content": "Nothing."}], {P, R}),
        ([USER, CALLING], {P, A}),
        ([USER, {"role": "assistant", "content": "One moment.", "tool_calls": [CALL]}], {P, R, A}),
        ([USER, CALLING, RESULT], {T, R, A}),
        ([RESULT], {T, R, A}),
        ([USER, CALLING, RESULT, {"role": "assistant", "content": "Done."}], {T, R}),
    ],
)
def test_a_conversation_knows_which_kinds_of_text_are_judged(messages, scopes):
    assert read_conversation(messages=messages, max_chars=1000).scopes == scopes


ALLOW = {"unsafe": "allow", "controversial": "allow"}


def policy_of(*scopes: str) -> Policy:
    rule = {"id": "r", "text": "nothing", "applies_to": list(scopes), "action": "block"}
    return Policy.parse({"name": "p", "rules": [rule], "prompt": ALLOW, "response": ALLOW}, source="test")


def test_a_policy_is_narrowed_rule_by_rule():
    policy = policy_of("prompt", "tool_results", "response")
    assert policy.for_scopes({P, R, A, T}) is policy
    (rule,) = policy.for_scopes({T}).rules
    assert rule.applies_to == (T,)
    assert policy.for_scopes({A}).rules == ()


@pytest.mark.parametrize(
    ("scope", "messages", "fires"),
    [
        ("tool_results", [USER, RESULT], True),
        ("tool_results", [USER], False),
        ("prompt", [USER], True),
        ("prompt", [RESULT], False),
        ("prompt", [USER, RESULT], True),  # the user's own turn is judged too
        ("tool_arguments", [USER, CALLING], True),
        ("tool_arguments", [USER, {"role": "assistant", "content": "Nothing to read."}], False),
        ("response", [USER, CALLING], False),
        ("response", [USER, {"role": "assistant", "content": "Nothing to read."}], True),
    ],
)
@pytest.mark.parametrize("by", ["taught", "words"])
def test_a_rule_fires_on_its_kinds_of_text_only(scope, messages, fires, by):
    if by == "taught":
        rule = {"id": "r", "applies_to": [scope], "action": "block"}
        policy = policy_with(rule, thresholds={"r": ALWAYS}, prompt=ALLOW, response=ALLOW)
        moderator = Moderator(small_guard(), policy=policy)
    else:
        policy = policy_of(scope)
        moderator = Moderator(cascade(TestSecondGuard(lambda text: ("r",))), policy=policy)
    with moderator:
        decision = moderator.moderate(messages=messages).decision
    assert (decision.action is Action.BLOCK) is fires
    assert [rule.id for rule in decision.rules] == (["r"] if fires else [])
