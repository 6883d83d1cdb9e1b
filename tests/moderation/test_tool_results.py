"""Conversations with tools in the library: what is judged of them, whole and as a stream."""

import pytest

from streamward.decisions import decide
from streamward.moderation.conversation import Conversation
from streamward.moderation.guard_stream import GuardStream
from streamward.moderation.moderator import Moderator
from streamward.moderation.stream_guard import StreamGuard
from streamward.policy import Policy
from streamward.schema import Action, Result, RiskLevel, Side, SideResult, Verdict
from tests.moderation.guards import stream_guard

CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
OPEN = Policy.parse({"name": "open", "response": {"thresholds": {"unsafe": 1.0, "controversial": 1.0}}}, source="test")


class LastTurnGuard:
    """Finds a prompt unsafe whose last turn has a mark in it, whatever was said before; streams are a real guard's."""

    def __init__(self) -> None:
        self._streams: StreamGuard = stream_guard()

    def judge(self, conversation: Conversation, policy: Policy) -> Result:
        text = conversation.context[-1].content if conversation.has_prompt else ""
        level = RiskLevel.UNSAFE if "#" in text else RiskLevel.SAFE
        probabilities = {each: float(each is level) for each in RiskLevel}
        decision = decide(policy, Side.PROMPT, Verdict(0, level, probabilities))
        return Result(decision, SideResult(level, None, probabilities))

    def open_stream(self, conversation: Conversation, policy: Policy, *, max_chars: int) -> GuardStream:
        harmless = Conversation((), None)
        return self._streams.open_stream(harmless, policy, max_chars=max_chars)

    def close(self) -> None:
        self._streams.close()


def conversation(said: str, *results: str, answer: str | None = None) -> list[dict[str, object]]:
    turns: list[dict[str, object]] = [
        {"role": "user", "content": said},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ]
    turns += [{"role": "tool", "tool_call_id": "c1", "content": result} for result in results]
    return turns if answer is None else [*turns, {"role": "assistant", "content": answer}]


@pytest.fixture
def moderator():
    with Moderator(LastTurnGuard(), policy=OPEN) as made:
        yield made


@pytest.mark.parametrize("answer", [None, "Here it is."])
@pytest.mark.parametrize(
    ("said", "results", "action"),
    [
        ("hello", ["fine"], Action.ALLOW),
        ("hello", ["#"], Action.BLOCK),
        ("hello", ["#", "fine"], Action.BLOCK),  # calls made at the same time
        ("#", ["fine"], Action.BLOCK),
        ("#", ["#"], Action.BLOCK),
    ],
)
def test_results_of_tools_are_judged_and_so_is_the_users_own_turn(moderator, said, results, action, answer):
    result = moderator.moderate(messages=conversation(said, *results, answer=answer))
    assert result.decision.action is action
    assert result.prompt.risk_level is (RiskLevel.SAFE if action is Action.ALLOW else RiskLevel.UNSAFE)


def test_the_users_own_turn_counts_in_a_stream_behind_results_of_tools(moderator):
    with moderator.stream(messages=conversation("#", "fine")) as stream:
        assert stream.decision.action is Action.BLOCK
        assert stream.prompt.risk_level is RiskLevel.UNSAFE
    with moderator.stream(messages=conversation("hello", "fine")) as stream:
        assert stream.decision.action is Action.ALLOW


def test_a_real_guard_reads_the_conversation_to_its_end():
    with Moderator(stream_guard(), policy=OPEN) as moderator:
        result = moderator.moderate(messages=conversation("hello", "fine", answer="Here it is."))
        assert result.prompt is not None
        assert result.response.verdicts[-1].span[1] == len("Here it is.")
        calls = moderator.moderate(messages=conversation("hello"))
        assert calls.response.verdicts[-1].span[1] == len("look_up\n{}")
