"""Granite Guardian: one call for each rule, which is its criterion.

Format: IBM, Granite Guardian 4.1 8B model card and documentation (ibm.com/granite/docs/models/guardian): behind the
conversation stands a user's turn that begins with `<guardian>` and has the judge's instruction, `### Criteria:` and
`### Scoring Schema:`; the answer is `<think> ... </think>` and `<score> yes | no </score>`, where yes says that the
text meets the criterion. 3.3 takes the criterion as a variable of its chat template instead
(`guardian_config.custom_criteria`, `think`). The wording of the frame is the one the models were trained on.

The conversation comes before the criterion, so the calls about one text share their prefix.
"""

import re
from collections.abc import Sequence

from streamward.errors import ConfigError, UpstreamError
from streamward.policy_guards.exchange import EndpointAnswer, FormatRequest
from streamward.policy_guards.framing import framed, judged_role, rule_words, spoken
from streamward.policy_guards.reading import shortened, split_reasoning
from streamward.policy_guards.rules import GuardRule, RuleOpinion
from streamward.schema import Message

_SCORE = re.compile(r"<score>\s*(yes|no)\s*(?:</score>)?", re.IGNORECASE)
_VERSIONS = ("4.1", "3.3")
_MAX_TOKENS = 48
_MAX_THINKING_TOKENS = 2048
_THINK = (
    "<think>As a judge agent, carefully analyze whether the provided text meets the given judging criteria. Use all"
    " available information, including conversations, documents, and tools. Reason through the evidence step by step"
    " before providing your score. Wrap your reasoning in <think></think> tags, then provide your score in"
    " <score></score> tags."
)
_NO_THINK = (
    "<no-think>As a judge agent, assess whether the provided text meets the given judging criteria using all available"
    " information, including conversations, documents, and tools. Provide your score immediately without explanation."
    " Output empty <think>\n</think> tags followed by your score in <score></score> tags."
)


class GraniteGuardianFormat:
    """Asks about each rule by itself."""

    def __init__(self, version: str = "4.1", *, thinking: bool = False) -> None:
        """Choose the model's version, and whether it reasons first.

        Raises:
            ConfigError: It is neither 4.1 nor 3.3.
        """
        if version not in _VERSIONS:
            raise ConfigError(f"variant is {version!r}; for granite-guardian it must be one of {', '.join(_VERSIONS)}")
        self._version = version
        self._thinking = thinking

    def requests(self, messages: Sequence[Message], rules: Sequence[GuardRule]) -> list[FormatRequest]:
        """Return a request for each rule; see `GuardFormat`."""
        role = judged_role(messages)
        turns = [{"role": message.role.value, "content": framed(spoken(message))} for message in messages]
        most = _MAX_THINKING_TOKENS if self._thinking else _MAX_TOKENS
        return [
            FormatRequest("chat/completions", self._body(turns, role.value, rule), (rule,), role, most)
            for rule in rules
        ]

    def read(self, answer: EndpointAnswer, request: FormatRequest) -> list[RuleOpinion]:
        """Read the score; see `GuardFormat`."""
        reasoning, text = split_reasoning(answer.text)
        found = _SCORE.fullmatch(text)
        if found is None:
            raise UpstreamError("the guard's answer is not one score of yes or no")
        explanation = shortened(answer.reasoning or reasoning)
        return [RuleOpinion(request.rules[0].id, found[1].lower() == "yes", explanation=explanation)]

    def _body(self, turns: list[dict[str, str]], role: str, rule: GuardRule) -> dict[str, object]:
        criterion = f"The last {role}'s text violates this rule: {framed(rule_words(rule))}"
        schema = f"If the last {role}'s text meets the criteria, return 'yes'; otherwise, return 'no'."
        if self._version == "3.3":
            config = {"custom_criteria": criterion, "custom_scoring_schema": schema}
            return {"messages": turns, "chat_template_kwargs": {"guardian_config": config, "think": self._thinking}}
        instruction = _THINK if self._thinking else _NO_THINK
        block = f"<guardian>{instruction}\n\n### Criteria: {criterion}\n\n### Scoring Schema: {schema}"
        return {"messages": [*turns, {"role": "user", "content": block}]}
