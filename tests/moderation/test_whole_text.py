"""Gen guards through the moderator: the same results as every guard's, under every policy."""

import pytest

from streamward.errors import InputError, UpstreamError
from streamward.generative.judgement import GenJudgement
from streamward.moderation.gen_guard_adapter import GenGuardAdapter
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import Action, Category, Message, RiskLevel, Role, Side

SAFE = GenJudgement(
    RiskLevel.SAFE, {RiskLevel.SAFE: 0.9, RiskLevel.CONTROVERSIAL: 0.06, RiskLevel.UNSAFE: 0.04}, (), None
)
UNSAFE = GenJudgement(
    RiskLevel.UNSAFE,
    {RiskLevel.SAFE: 0.1, RiskLevel.CONTROVERSIAL: 0.2, RiskLevel.UNSAFE: 0.7},
    (Category.PII, Category.VIOLENT),
    None,
)
REFUSED = GenJudgement(SAFE.risk_level, SAFE.probabilities, (), True, windows=2)


class Scripted:
    """Answers by the role of the last message."""

    def __init__(self, *, user=SAFE, assistant=SAFE) -> None:
        self.answers = {Role.USER: user, Role.ASSISTANT: assistant}
        self.asked: list[list[Message]] = []
        self.is_closed = False

    def judge(self, messages):
        self.asked.append(list(messages))
        answer = self.answers[messages[-1].role]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.is_closed = True


def moderator(guard: Scripted, policy: str | Policy = "strict") -> Moderator:
    return Moderator(GenGuardAdapter(guard), policy=Policy.load(policy))


def test_both_sides_are_judged_each_with_its_context():
    guard = Scripted(user=UNSAFE, assistant=REFUSED)
    result = moderator(guard).moderate(prompt="p", response="r")
    assert [[message.content for message in asked] for asked in guard.asked] == [["p"], ["p", "r"]]
    assert result.prompt.risk_level is RiskLevel.UNSAFE
    assert result.prompt.category is Category.PII
    assert (result.response.refusal, result.response.windows) == (True, 2)
    assert (result.decision.action, result.decision.side) == (Action.BLOCK, Side.PROMPT)


def test_a_safe_text_is_allowed():
    result = moderator(Scripted()).moderate(prompt="p")
    assert result.decision.action is Action.ALLOW
    assert result.prompt.category is None
    assert result.response is None


def test_of_several_categories_the_one_with_the_harshest_action_decides():
    policy = Policy(name="mine", prompt={"unsafe": "flag", "categories": {"Violent": {"unsafe": "block"}}})
    result = moderator(Scripted(user=UNSAFE), policy).moderate(prompt="p")
    assert result.decision.action is Action.BLOCK
    assert result.decision.category is Category.VIOLENT
    assert result.prompt.category is Category.VIOLENT


def test_the_thresholds_of_the_policy_apply():
    policy = Policy(name="mine", prompt={"thresholds": {"unsafe": 0.8, "controversial": 0.95}})
    assert moderator(Scripted(user=UNSAFE), policy).moderate(prompt="p").decision.action is Action.ALLOW


def test_a_guard_that_cannot_answer_leaves_it_to_the_policy():
    result = moderator(Scripted(user=UpstreamError("no answer"))).moderate(prompt="p")
    assert (result.decision.action, result.decision.error) == (Action.BLOCK, UpstreamError.code)


def test_streams_are_refused():
    with pytest.raises(InputError, match="whole texts only"):
        moderator(Scripted()).stream(prompt="p")


def test_closing_closes_the_guard():
    guard = Scripted()
    moderator(guard).close()
    assert guard.is_closed
