"""Gen guards behind a moderator: sides, policies, failures."""

from collections.abc import Sequence

import pytest

from streamward.errors import CheckpointError, ConfigError, ContextLengthError, InputError, UpstreamError
from streamward.generative.judgement import GenJudgement
from streamward.moderation.conversation import Conversation
from streamward.moderation.gen_guard_adapter import GenGuardAdapter, remote_guard
from streamward.moderation.moderator import Moderator
from streamward.policy import LOOSE, STRICT, Policy
from streamward.schema import Action, Category, Decision, Message, Result, RiskLevel, Role, Side, SideResult
from tests.generative.reference import gen_guard

SAFE, CONTROVERSIAL, UNSAFE = RiskLevel
USER, ASSISTANT = Message(Role.USER, "question"), Message(Role.ASSISTANT, "reply")
BOTH = Conversation((USER,), ASSISTANT)
PROMPT = Conversation((USER,), None)


def said(
    level: RiskLevel,
    *categories: Category,
    shares: tuple[float, float, float] | None = None,
    refusal: bool | None = None,
) -> GenJudgement:
    probabilities = shares or tuple(float(each is level) for each in RiskLevel)
    return GenJudgement(level, dict(zip(RiskLevel, probabilities, strict=True)), categories, refusal)


class ScriptedGuard:
    """Says the next of what it was given, and keeps what it was asked."""

    def __init__(self, *outcomes: GenJudgement | Exception) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[list[str]] = []
        self.is_closed = False

    def judge(self, messages: Sequence[Message]) -> GenJudgement:
        self.asked.append([f"{message.role.value}: {message.content}" for message in messages])
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self) -> None:
        self.is_closed = True


def judge(*outcomes: GenJudgement | Exception, conversation: Conversation = PROMPT, policy: Policy = STRICT) -> Result:
    return GenGuardAdapter(ScriptedGuard(*outcomes)).judge(conversation, policy)


def policy(**sides: object) -> Policy:
    return Policy.parse({"name": "test", **sides}, source="test")


def test_both_last_turns_are_judged_in_the_light_of_what_is_before() -> None:
    guard = ScriptedGuard(said(SAFE), said(SAFE, refusal=True))
    earlier = (Message(Role.SYSTEM, "rules"), USER, ASSISTANT, Message(Role.USER, "again"))
    result = GenGuardAdapter(guard).judge(Conversation(earlier, ASSISTANT), STRICT)
    context = ["system: rules", "user: question", "assistant: reply", "user: again"]
    assert guard.asked == [context, [*context, "assistant: reply"]]
    assert result.decision == Decision(Action.ALLOW)
    assert result.prompt is not None
    assert result.response is not None
    assert (result.prompt.refusal, result.response.refusal) == (None, True)


def test_a_prompt_alone_has_no_judgement_of_a_response() -> None:
    assert judge(said(SAFE)).response is None


def test_a_response_alone_has_no_judgement_of_a_prompt() -> None:
    result = judge(said(UNSAFE, Category.PII), conversation=Conversation((), ASSISTANT))
    assert result.prompt is None
    assert result.decision == Decision(Action.BLOCK, Side.RESPONSE, UNSAFE, Category.PII)


def test_a_judgement_is_one_for_the_whole_text() -> None:
    shares = (0.1, 0.2, 0.7)
    result = judge(said(UNSAFE, Category.VIOLENT, shares=shares))
    probabilities = dict(zip(RiskLevel, shares, strict=True))
    assert result.prompt == SideResult(UNSAFE, Category.VIOLENT, probabilities)
    assert result.decision == Decision(Action.BLOCK, Side.PROMPT, UNSAFE, Category.VIOLENT)


@pytest.mark.parametrize(("chosen", "action"), [(STRICT, Action.BLOCK), (LOOSE, Action.ALLOW)])
def test_the_policy_decides_on_controversial(chosen: Policy, action: Action) -> None:
    result = judge(said(CONTROVERSIAL, Category.POLITICAL), policy=chosen)
    assert result.decision.action is action
    assert result.prompt is not None
    assert (result.prompt.risk_level, result.prompt.category) == (CONTROVERSIAL, Category.POLITICAL)


def test_thresholds_move_the_level() -> None:
    cautious = policy(prompt={"thresholds": {"unsafe": 0.3}})
    result = judge(said(SAFE, shares=(0.5, 0.1, 0.4)), policy=cautious)
    assert result.decision.action is Action.BLOCK
    assert result.prompt is not None
    assert result.prompt.risk_level is UNSAFE


def test_the_most_severe_action_says_which_of_several_categories_is_reported() -> None:
    mild = policy(prompt={"unsafe": "flag", "categories": {"PII": {"unsafe": "block"}}})
    result = judge(said(UNSAFE, Category.VIOLENT, Category.PII, Category.POLITICAL), policy=mild)
    assert result.decision == Decision(Action.BLOCK, Side.PROMPT, UNSAFE, Category.PII)
    assert result.prompt is not None
    assert result.prompt.category is Category.PII


def test_of_categories_with_equal_actions_the_first_is_reported() -> None:
    assert judge(said(UNSAFE, Category.PII, Category.VIOLENT)).decision.category is Category.PII


def test_an_allowed_category_does_not_excuse_another() -> None:
    lenient = policy(response={"categories": {"Violent": {"unsafe": "allow"}}})
    both = said(UNSAFE, Category.VIOLENT, Category.PII)
    assert judge(said(SAFE), both, conversation=BOTH, policy=lenient).decision.category is Category.PII
    only = said(UNSAFE, Category.VIOLENT)
    assert judge(said(SAFE), only, conversation=BOTH, policy=lenient).decision.action is Action.ALLOW


def test_unsafe_without_a_category_is_blocked() -> None:
    assert judge(said(UNSAFE)).decision == Decision(Action.BLOCK, Side.PROMPT, UNSAFE)


def test_a_safe_text_has_no_category() -> None:
    result = judge(said(SAFE, Category.VIOLENT))
    assert result.prompt is not None
    assert result.prompt.category is None


def test_reasoning_is_judged_too_and_the_worse_counts() -> None:
    guard = ScriptedGuard(said(SAFE), said(SAFE, refusal=True), said(UNSAFE, Category.PII))
    thoughtful = Message(Role.ASSISTANT, "reply", reasoning="thoughts")
    result = GenGuardAdapter(guard).judge(Conversation((USER,), thoughtful), STRICT)
    assert guard.asked[1:] == [["user: question", "assistant: reply"], ["user: question", "assistant: thoughts"]]
    assert result.decision == Decision(Action.BLOCK, Side.RESPONSE, UNSAFE, Category.PII)


def test_a_failure_is_decided_by_the_policy() -> None:
    result = judge(UpstreamError("no answer"))
    assert result == Result(Decision(Action.BLOCK, Side.PROMPT, None, error="upstream_failed"))


def test_a_failure_on_one_side_does_not_hide_the_other() -> None:
    open_door = policy(on_error={"prompt": "allow", "response": "allow"})
    outcomes = (said(UNSAFE, Category.PII), CheckpointError("no numbers"))
    result = judge(*outcomes, conversation=BOTH, policy=open_door)
    assert result.decision == Decision(Action.BLOCK, Side.PROMPT, UNSAFE, Category.PII)
    assert result.prompt is not None
    assert result.response is None


def test_an_allowed_failure_is_seen_beside_a_safe_judgement() -> None:
    open_door = policy(on_error={"prompt": "allow", "response": "allow"})
    thoughtful = Message(Role.ASSISTANT, "reply", reasoning="thoughts")
    outcomes = (said(SAFE), said(SAFE), UpstreamError("no answer"))
    result = judge(*outcomes, conversation=Conversation((USER,), thoughtful), policy=open_door)
    assert result.decision == Decision(Action.ALLOW, Side.RESPONSE, None, error="upstream_failed")


def test_a_text_that_does_not_fit_is_the_callers_error() -> None:
    with pytest.raises(ContextLengthError):
        judge(ContextLengthError("too long"))


def test_a_moderator_cannot_stream_with_it() -> None:
    moderator = Moderator(GenGuardAdapter(ScriptedGuard()), policy=STRICT)
    with moderator, pytest.raises(InputError, match="whole texts only"):
        moderator.stream(prompt="question")


def test_closing_the_moderator_closes_the_guard() -> None:
    guard = ScriptedGuard()
    Moderator(GenGuardAdapter(guard), policy=STRICT).close()
    assert guard.is_closed


def test_a_local_guard_works_behind_a_moderator() -> None:
    with Moderator(GenGuardAdapter(gen_guard()), policy=STRICT) as moderator:
        result = moderator.moderate(prompt="question", response="reply")
        again = moderator.moderate_batch([{"prompt": "question", "response": "reply"}] * 4)
    assert again == [result] * 4
    assert result.prompt is not None
    assert result.response is not None
    assert sum(result.prompt.probabilities.values()) == pytest.approx(1.0)
    assert result.response.refusal is not None


def test_a_remote_guard_checks_its_settings() -> None:
    remote_guard("http://guard.test/v1", "guard").close()
    with pytest.raises(ConfigError, match="base_url"):
        remote_guard("guard.test", "guard")
