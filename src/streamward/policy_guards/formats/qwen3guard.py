"""Qwen3Guard-Gen with an edited list of categories: all rules in one call.

Format: Qwen3Guard technical report (arXiv 2510.14276) and the chat template of Qwen/Qwen3Guard-Gen-4B: a task, the
meaning of Safe, Unsafe and Controversial, the categories between `<BEGIN UNSAFE CONTENT CATEGORIES>` and its end, the
conversation with turns of `USER` and `ASSISTANT`, and the form of the answer: lines `Safety:`, `Categories:` and, for
responses, `Refusal:`. The wording is the one the models were trained on; the list holds the rules instead of the nine
built-in names, which the models were not trained for.

Variant `rendered` sends the prompt, rendered here, to `/completions`: the checkpoint's own chat template has a fixed
list. Variant `server` sends the conversation to `/chat/completions` and leaves the prompt to the server's template,
whose list may have been edited there; the setting `categories` says what each rule is called in it. The built-in rules
go by the published names, so an unmodified Qwen3Guard-Gen can be asked about them.
"""

from collections.abc import Mapping, Sequence

from streamward.errors import ConfigError, UpstreamError
from streamward.policy_guards.built_in import CATEGORY_OF
from streamward.policy_guards.exchange import EndpointAnswer, FormatRequest
from streamward.policy_guards.framing import framed, judged_role, one_line, rule_words, spoken, transcript
from streamward.policy_guards.reading import named_rules, opinions_of, read_lines, split_reasoning
from streamward.policy_guards.rules import GuardRule, RuleOpinion
from streamward.schema import Message, RiskLevel, Role

_VARIANTS = ("rendered", "server")
_LABELS = {Role.SYSTEM: "USER:", Role.USER: "USER:", Role.ASSISTANT: "ASSISTANT:"}
_TAGS = ("BEGIN CONVERSATION", "END CONVERSATION", "BEGIN UNSAFE CONTENT CATEGORIES", "END UNSAFE CONTENT CATEGORIES")
_MAX_TOKENS = 64
_TOKENS_PER_RULE = 8
_LEVELS = {level.value.lower(): level for level in RiskLevel}
_NO_CATEGORY = "none"
_PROMPT_LEVELS = (
    "**Safety: Safe**: The USER's query does not contain any prohibited content or content that could lead to"
    " prohibited content.\n"
    "**Safety: Unsafe**: The USER's query contains prohibited content.\n"
    "**Safety: Controversial**: The USER's query does not explicitly contain prohibited content, but its intent,"
    " context, or potential responses could be misinterpreted, misused, or exploited to generate unsafe content under"
    " certain conditions."
)
_RESPONSE_LEVELS = (
    "**Safety: Safe**: The ASSISTANT's response does not contain any prohibited content or content that could lead to"
    " prohibited content.\n"
    "**Safety: Unsafe**: The ASSISTANT's response contains prohibited content.\n"
    "**Safety: Controversial**: The ASSISTANT's response is not explicitly harmful, but could become risky or offensive"
    " depending on context or audience."
)
_REFUSAL_POLICY = (
    "<BEGIN REFUSAL POLICY>\n**Refusal: Yes**: The ASSISTANT refused to answer or did not comply with the USER's"
    " request.\n**Refusal: No**: The ASSISTANT directly answered or complied with the USER's request.\n<END REFUSAL"
    " POLICY>\n\n"
)


class Qwen3GuardFormat:
    """Asks about all rules at once. Controversial counts as a violation, as in the report's strict mode."""

    def __init__(self, variant: str = "rendered", *, categories: Mapping[str, str] | None = None) -> None:
        """Choose who renders the prompt.

        Args:
            variant: `rendered` or `server`.
            categories: For `server`: what each rule is called in the list of the server's template, by rule id;
                besides the built-in rules, which go by the published names.

        Raises:
            ConfigError: There is no such variant, or `categories` does not go with it.
        """
        if variant not in _VARIANTS:
            raise ConfigError(f"variant is {variant!r}; for qwen3guard it must be one of {', '.join(_VARIANTS)}")
        if categories and variant != "server":
            raise ConfigError("categories goes with the variant server")
        self._variant = variant
        self._categories = {**CATEGORY_OF, **(categories or {})}

    def requests(self, messages: Sequence[Message], rules: Sequence[GuardRule]) -> list[FormatRequest]:
        """Return one request; see `GuardFormat`.

        Raises:
            ConfigError: Variant `server`, and a rule has no name in the server's list.
        """
        role = judged_role(messages)
        most = _MAX_TOKENS + _TOKENS_PER_RULE * len(rules)
        if self._variant == "server":
            missing = [rule.id for rule in rules if rule.id not in self._categories]
            if missing:
                raise ConfigError(f"categories says nothing about the rules {', '.join(missing)}")
            turns = [{"role": message.role.value, "content": spoken(message)} for message in messages]
            return [FormatRequest("chat/completions", {"messages": turns}, tuple(rules), role, most)]
        body = {"prompt": _rendered(messages, rules, is_prompt=role is Role.USER), "stop": ["<|im_end|>"]}
        return [FormatRequest("completions", body, tuple(rules), role, most)]

    def read(self, answer: EndpointAnswer, request: FormatRequest) -> list[RuleOpinion]:
        """Read the lines; see `GuardFormat`."""
        _, text = split_reasoning(answer.text)
        lines = read_lines(text, ("Safety", "Categories", "Refusal"))
        level = _LEVELS.get(lines.get("Safety", "").lower())
        if level is None:
            raise UpstreamError(f"the guard's answer has no Safety line with one of {', '.join(RiskLevel)}")
        if lines.get("Refusal", "no").lower() not in ("yes", "no"):
            raise UpstreamError("the guard's answer has a Refusal line that is neither Yes nor No")
        names = [name for name in lines.get("Categories", "").split(",") if name.strip()]
        has_none = [name.strip().rstrip(".").lower() for name in names] == [_NO_CATEGORY]
        if level is RiskLevel.SAFE:
            if names and not has_none:
                raise UpstreamError("the guard's answer contradicts itself: it is Safe and names categories")
            return opinions_of((), request.rules)
        if not names or has_none:
            raise UpstreamError(f"the guard's answer is {level} without a category")
        return opinions_of(named_rules(names, self._aliases(request.rules)), request.rules)

    def _aliases(self, rules: Sequence[GuardRule]) -> dict[str, GuardRule]:
        if self._variant == "server":
            return {" ".join(self._categories[rule.id].lower().split()): rule for rule in rules}
        return {rule.id.lower(): rule for rule in rules}


def _rendered(messages: Sequence[Message], rules: Sequence[GuardRule], *, is_prompt: bool) -> str:
    who, what = ("USER", "query") if is_prompt else ("ASSISTANT", "response")
    refusal_task = (
        "" if is_prompt else "3) Determine if THE LAST ASSISTANT's response is a refusal to the USER's query.\n"
    )
    refusal_line = "" if is_prompt else "\n - The third line must be one of: 'Refusal: Yes', 'Refusal: No'."
    listed = "\n".join(f"{rule.id}: {framed(one_line(rule_words(rule)), tags=_TAGS)}" for rule in rules)
    conversation = transcript(messages, _LABELS, tags=_TAGS, separator="\n\n")
    return (
        "<|im_start|>user\n# Task:\n"
        f"1) Evaluate whether THE LAST {who}'s {what} belongs to safe or unsafe content based on our safety policy.\n"
        f"2) Identify the category of unsafe content found.\n{refusal_task}\n"
        f"<BEGIN SAFETY POLICY>\n{_PROMPT_LEVELS if is_prompt else _RESPONSE_LEVELS}\n<END SAFETY POLICY>\n\n"
        f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{listed}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
        f"{'' if is_prompt else _REFUSAL_POLICY}<BEGIN CONVERSATION>\n\n{conversation}\n\n<END CONVERSATION>\n\n"
        f"Provide your safety assessment for ONLY THE LAST **{who}'s {what}** in the above conversation:\n"
        " - The first line must be one of: 'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'.\n"
        " - The second line should start with 'Categories:' followed by a list of any unsafe content categories,"
        f" separated by commas. If the content is safe, use 'Categories: None'.{refusal_line}"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
