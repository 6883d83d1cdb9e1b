"""Gen guards behind a moderator: one judgement for each whole text."""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from streamward.errors import InputError
from streamward.generative.judgement import GenGuard, GenJudgement
from streamward.moderation.conversation import Conversation
from streamward.policy import Policy, combine, decide
from streamward.schema import Category, Decision, Judgement, Message, Result, RiskLevel, Side, Verdict


class _Side(NamedTuple):
    judgement: Judgement
    decision: Decision


class WholeTextAdapter:
    """Judges the last user turn and the last assistant turn, each as a whole."""

    def __init__(self, guard: GenGuard) -> None:
        """Take over a guard."""
        self._guard = guard

    def judge(self, conversation: Conversation, policy: Policy) -> Result:
        """Judge a whole conversation.

        Raises:
            UpstreamError: The guard runs elsewhere and failed, or its answer cannot be read.
            CheckpointError: The guard's weights are damaged.
            ContextLengthError: The conversation does not fit.
        """
        prompt = response = None
        if conversation.has_prompt:
            prompt = self._judge_side(Side.PROMPT, conversation.context, policy)
        if conversation.response is not None:
            response = self._judge_side(Side.RESPONSE, [*conversation.context, conversation.response], policy)
        sides = [None if side is None else side.judgement for side in (prompt, response)]
        decisions = [None if side is None else side.decision for side in (prompt, response)]
        return Result(combine(*decisions), *sides)

    def open_stream(self, conversation: Conversation, policy: Policy, *, max_chars: int) -> NoReturn:
        """Refuse: a Gen guard has no verdict before the text ends.

        Raises:
            InputError: Always.
        """
        raise InputError("this guard judges whole texts only; load a Stream guard to judge a stream")

    def close(self) -> None:
        """Close the guard."""
        self._guard.close()

    def _judge_side(self, side: Side, messages: Sequence[Message], policy: Policy) -> _Side:
        found = self._guard.judge(messages)
        categories: Sequence[Category | None] = found.categories or (None,)
        verdicts = [Verdict(0, found.risk_level, found.probabilities, category) for category in categories]
        decided = [(decide(policy, side, verdict), verdict) for verdict in verdicts]
        decision, verdict = max(decided, key=lambda pair: pair[0].action.severity)  # the first of equals
        return _Side(_judgement(found, policy.side(side).level(verdict), verdict.category), decision)


def _judgement(found: GenJudgement, level: RiskLevel, category: Category | None) -> Judgement:
    return Judgement(
        risk_level=level,
        category=None if level is RiskLevel.SAFE else category,
        probabilities=found.probabilities,
        refusal=found.refusal,
        windows=found.windows,
    )
