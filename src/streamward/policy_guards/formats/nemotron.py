"""Nemotron Content Safety with own rules, in three published ways.

Formats: NVIDIA.
- `custom-taxonomy` (Nemotron 3.5 Content Safety; docs.nvidia.com/nemo/guardrails, "Custom Policy with Nemotron 3.5
  Content Safety NIM", mode B; NVIDIA-NeMo/Nemotron, usage-cookbook, pull requests 247 and 256): the variable
  `custom_taxonomy` of the chat template replaces the built-in categories by lines `S1: name. definition`;
  `request_categories` is `/categories`; the answer is `User Safety:`, `Response Safety:` and `Safety Categories:` with
  names. One call for all rules.
- `custom-policy` (the same model, mode A): `custom_policy` is a free text that replaces the built-in behaviour, with a
  name, disallowed and allowed behaviours. Its answer names no rule, so there is one call for each.
- `reasoning-4b` (Nemotron-Content-Safety-Reasoning-4B model card; NVIDIA-NeMo/Guardrails,
  examples/configs/content_safety_reasoning/prompts.yml): the taxonomy stands in the user message, which ends with
  `/think` or `/no_think`; the answer is `Prompt harm:` and `Response harm:`. One call for each rule.

The first two depend on the server handing `chat_template_kwargs` to the template. One that ignores them judges by the
built-in categories; where it then names one of those, that is an error here, but its `safe` cannot be told from ours.
"""

from collections.abc import Sequence

from streamward.errors import ConfigError, UpstreamError
from streamward.policy_guards.exchange import EndpointAnswer, FormatRequest
from streamward.policy_guards.framing import framed, judged_role, one_line, rule_words, spoken
from streamward.policy_guards.reading import named_rules, opinions_of, read_lines, shortened, split_reasoning
from streamward.policy_guards.rules import GuardRule, RuleOpinion
from streamward.schema import Message, Role

_VARIANTS = ("custom-taxonomy", "custom-policy", "reasoning-4b")
_TAGS = ("BEGIN CONVERSATION", "END CONVERSATION")
_LABELS = ("Human user:", "AI assistant:", "user:", "response:")
_MAX_TOKENS = 128
_MAX_THINKING_TOKENS = 1024
_SAFETY = {"safe": False, "unsafe": True}
_HARM = {"unharmful": False, "harmful": True}


class NemotronFormat:
    """Asks about all rules at once, or about each by itself, as the variant can."""

    def __init__(self, variant: str = "custom-taxonomy", *, thinking: bool = False) -> None:
        """Choose the way.

        Raises:
            ConfigError: There is no such variant.
        """
        if variant not in _VARIANTS:
            raise ConfigError(f"variant is {variant!r}; for nemotron it must be one of {', '.join(_VARIANTS)}")
        self._variant = variant
        self._thinking = thinking

    def requests(self, messages: Sequence[Message], rules: Sequence[GuardRule]) -> list[FormatRequest]:
        """Return the requests; see `GuardFormat`."""
        role = judged_role(messages)
        groups = [tuple(rules)] if self._variant == "custom-taxonomy" else [(rule,) for rule in rules]
        most = _MAX_THINKING_TOKENS if self._thinking else _MAX_TOKENS
        return [FormatRequest("chat/completions", self._body(messages, group), group, role, most) for group in groups]

    def read(self, answer: EndpointAnswer, request: FormatRequest) -> list[RuleOpinion]:
        """Read the lines; see `GuardFormat`."""
        reasoning, text = split_reasoning(answer.text)
        explanation = shortened(reasoning or answer.reasoning)
        is_prompt = request.role is Role.USER
        if self._variant == "reasoning-4b":
            lines = read_lines(text, ("Prompt harm", "Response harm"))
            is_violated = _label(lines, "Prompt harm" if is_prompt else "Response harm", _HARM)
            return opinions_of(request.rules if is_violated else (), request.rules, explanation=explanation)
        lines = read_lines(text, ("User Safety", "Response Safety", "Safety Categories"))
        is_violated = _label(lines, "User Safety" if is_prompt else "Response Safety", _SAFETY)
        if not is_violated:
            return opinions_of((), request.rules)
        if self._variant == "custom-policy":
            return opinions_of(request.rules, request.rules, explanation=explanation)
        names = [name for name in lines.get("Safety Categories", "").split(",") if name.strip()]
        if not names:
            raise UpstreamError("the guard's answer is unsafe without Safety Categories")
        return opinions_of(named_rules(names, _aliases(request.rules)), request.rules, explanation=explanation)

    def _body(self, messages: Sequence[Message], rules: Sequence[GuardRule]) -> dict[str, object]:
        if self._variant == "reasoning-4b":
            return {"messages": [{"role": "user", "content": self._classifier_prompt(messages, rules[0])}]}
        turns = [
            {"role": message.role.value, "content": framed(spoken(message), tags=_TAGS, labels=_LABELS)}
            for message in _last_exchange(messages)
        ]
        variables: dict[str, object] = {"request_categories": "/categories", "enable_thinking": self._thinking}
        if self._variant == "custom-policy":
            variables["custom_policy"] = self._policy(rules[0])
        else:
            variables["custom_taxonomy"] = "\n".join(
                f"S{number}: {rule.id}. {framed(one_line(rule_words(rule)), tags=_TAGS)}"
                for number, rule in enumerate(rules, start=1)
            )
        return {"messages": turns, "chat_template_kwargs": variables}

    def _policy(self, rule: GuardRule) -> str:
        thinking = " First, think through your reasoning step-by-step." if self._thinking else ""
        disallowed = [rule.text, *rule.examples]
        lines = [
            "Evaluate the user prompt and the response for compliance with the given policy ignoring any previous"
            f" policies you know about.{thinking}",
            "",
            "### Policy",
            f"Name: {rule.id}",
            "Description: Only what is listed as disallowed makes a text unsafe.",
            "",
            "Disallowed Behaviors:",
            *(f"- {framed(one_line(text), tags=_TAGS)}" for text in disallowed),
        ]
        if rule.counter_examples:
            lines += ["", "Allowed Behaviors:"]
            lines += [f"- {framed(one_line(text), tags=_TAGS)}" for text in rule.counter_examples]
        return "\n".join(lines)

    def _classifier_prompt(self, messages: Sequence[Message], rule: GuardRule) -> str:
        *_, last = turns = [framed(spoken(message), labels=_LABELS) for message in _last_exchange(messages)]
        is_prompt = messages[-1].role is Role.USER
        prompt, response = (last, "None") if is_prompt else (turns[0], last)
        return (
            "You are a classifier for analyzing interactions between humans and LLMs. Given a request from a human user"
            " and a response from an LLM assistant, determine 1) whether the human user's request is harmful, 2)"
            " whether the AI assistant's response is a refusal, and 3) whether the AI assistant's response is"
            " harmful.\n"
            "Taxonomy: The following are the list of harmful categories that the prompt and response may fall into.\n\n"
            f"S1: {rule.id}. {framed(one_line(rule_words(rule)))}\n\n"
            f"Human user:\n{prompt}\n\nAI assistant:\n{response}\n\n"
            "Use the taxonomy to determine if the prompt and response fall into any of the harmful categories. Output"
            " your answer in the following format:\n\n"
            '"Prompt harm: <harmful/unharmful>\nResponse harm: <harmful/unharmful>"\n\n'
            "Only output the answer in the format specified above after thinking about the request and\nresponse. If"
            ' there is no response, output "Response harm: <harmful/unharmful>" as None. '
            + ("/think" if self._thinking else "/no_think")
        )


def _last_exchange(messages: Sequence[Message]) -> list[Message]:
    """Return the last turn, and the user's before it if it is the assistant's: the format has no more, and no less."""
    last = messages[-1]
    if last.role is Role.USER:
        return [last]
    users = [message for message in messages[:-1] if message.role is Role.USER]
    return [users[-1] if users else Message(Role.USER, "None"), last]


def _label(lines: dict[str, str], name: str, values: dict[str, bool]) -> bool:
    found = values.get(lines.get(name, "").lower())
    if found is None:
        raise UpstreamError(f"the guard's answer has no {name} line with one of {', '.join(values)}")
    return found


def _aliases(rules: Sequence[GuardRule]) -> dict[str, GuardRule]:
    found: dict[str, GuardRule] = {}
    for number, rule in enumerate(rules, start=1):
        found |= {name: rule for name in (rule.id.lower(), f"s{number}", f"s{number}: {rule.id.lower()}")}
    return found
