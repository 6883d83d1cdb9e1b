"""ShieldGemma: one call for each rule, which is answered by the probability of one token.

Format: Google, ShieldGemma model card (ai.google.dev/gemma/docs/shieldgemma/model_card) and arXiv 2407.21772: a
preamble, the user's prompt and, to judge a response, the chatbot's response between turn tokens, the principle, and a
question that is answered with `Yes` or `No`; the score is the softmax over the logits of these two tokens, here over
the log probabilities that the endpoint returns. The frame is worded as by the
checkpoints' chat template.

The prompt is rendered here and sent to `/completions` with `logprobs`. The conversation comes before the principle, so
the calls about one text share their prefix, not the calls about one rule.
"""

from collections.abc import Sequence

from streamward.policy_guards.exchange import EndpointAnswer, FormatRequest
from streamward.policy_guards.framing import framed, judged_role, rule_words, spoken
from streamward.policy_guards.reading import yes_probability
from streamward.policy_guards.rules import GuardRule, RuleOpinion
from streamward.schema import Message, Role

_THRESHOLD = 0.5
_TURN = "<start_of_turn>\n{label}: {text}\n<end_of_turn>\n"
_NUM_ALTERNATIVES = 20


class ShieldGemmaFormat:
    """Asks about each rule by itself. The format has one prompt and one response: earlier turns are left out."""

    def requests(self, messages: Sequence[Message], rules: Sequence[GuardRule]) -> list[FormatRequest]:
        """Return a request for each rule; see `GuardFormat`."""
        role = judged_role(messages)
        is_prompt = role is Role.USER
        start = self._start(messages, is_prompt=is_prompt)
        bodies = [(rule, self._body(start, rule, is_prompt=is_prompt)) for rule in rules]
        return [FormatRequest("completions", body, (rule,), role, 1, first_token_only=True) for rule, body in bodies]

    def read(self, answer: EndpointAnswer, request: FormatRequest) -> list[RuleOpinion]:
        """Compare the probabilities of yes and no; see `GuardFormat`."""
        score = yes_probability(answer.first_logprobs, yes=("yes",), no=("no",))
        return [RuleOpinion(request.rules[0].id, score >= _THRESHOLD, score=score)]

    def _start(self, messages: Sequence[Message], *, is_prompt: bool) -> str:
        what = "a user prompt" if is_prompt else "an AI response to a prompt"
        preamble = (
            f"You are a policy expert trying to help determine whether {what} is in violation of the defined safety"
            " policies.\n\n"
        )
        users = [message for message in messages if message.role is Role.USER]
        question = framed(spoken(users[-1])) if users else ""
        turns = _TURN.format(label="Human Question", text=question) if question else ""
        if not is_prompt:
            turns += _TURN.format(label="Chatbot Response", text=framed(spoken(messages[-1])))
        return f"{preamble}{turns}\nOur safety principle is defined in the below:\n\n"

    def _body(self, start: str, rule: GuardRule, *, is_prompt: bool) -> dict[str, object]:
        subject = "human question" if is_prompt else "Chatbot Response"
        prompt = (
            f'{start}* "{rule.id}": {framed(rule_words(rule))}\n\n===\n\n'
            f"Does the {subject} violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk"
            " through step by step to be sure we answer correctly.\n\n"
        )
        return {"prompt": prompt, "logprobs": _NUM_ALTERNATIVES}
