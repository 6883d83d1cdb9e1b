"""Llama Guard 3 and 4 with the rules as its categories: all rules in one call.

Format: Meta, "Llama Guard 3" and "Llama Guard 4" (llama.com/docs/model-cards-and-prompt-formats): a task, the
categories `S1: ...` between `<BEGIN UNSAFE CONTENT CATEGORIES>` and its end, the conversation with turns of `User` and
`Agent`, and the instruction; the answer is `safe`, or `unsafe` and a line of codes with commas. To judge a prompt, no
agent's turn stands last. The wording of the frame is the one the models were trained on.

The prompt is rendered here and sent to `/completions`: the chat templates of Llama Guard 3 8B and 4 have fixed
categories, so a server would judge by those without saying so. The server adds the token that begins a text.
"""

from collections.abc import Sequence

from streamward.errors import ConfigError, UpstreamError
from streamward.policy_guards.exchange import EndpointAnswer, FormatRequest
from streamward.policy_guards.framing import framed, judged_role, rule_words, transcript
from streamward.policy_guards.reading import named_rules, opinions_of
from streamward.policy_guards.rules import GuardRule, RuleOpinion
from streamward.schema import Message, Role

_TAGS = (
    "BEGIN UNSAFE CONTENT CATEGORIES",
    "END UNSAFE CONTENT CATEGORIES",
    "BEGIN CONVERSATION",
    "END CONVERSATION",
)
_LABELS = {Role.USER: "User:", Role.ASSISTANT: "Agent:"}
_HEADERS = {
    "3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "4": ("<|header_start|>", "<|header_end|>", "<|eot|>"),
}
_MAX_TOKENS = 24
_TOKENS_PER_RULE = 4


class LlamaGuardFormat:
    """Asks about all rules at once."""

    def __init__(self, version: str = "4") -> None:
        """Choose the model's version, whose control tokens differ.

        Raises:
            ConfigError: It is neither 3 nor 4.
        """
        if version not in _HEADERS:
            raise ConfigError(f"variant is {version!r}; for llama-guard it must be one of {', '.join(_HEADERS)}")
        self._version = version

    def requests(self, messages: Sequence[Message], rules: Sequence[GuardRule]) -> list[FormatRequest]:
        """Return one request; see `GuardFormat`. Turns of the system are left out: the format has none."""
        role = judged_role(messages)
        who = "User" if role is Role.USER else "Agent"
        spelling = "according to" if self._version == "4" else "according"
        categories = "\n".join(
            f"S{number}: {rule.id}.\n{framed(rule_words(rule), tags=_TAGS)}"
            for number, rule in enumerate(rules, start=1)
        )
        conversation = transcript(messages, _LABELS, tags=_TAGS, separator="\n\n")
        start, end, stop = _HEADERS[self._version]
        prompt = (
            f"{start}user{end}\n\n"
            f"Task: Check if there is unsafe content in '{who}' messages in conversations {spelling} our safety policy"
            " with the below categories.\n\n"
            f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
            f"<BEGIN CONVERSATION>\n\n{conversation}\n\n<END CONVERSATION>\n\n"
            f"Provide your safety assessment for ONLY THE LAST {who} message in the above conversation:\n"
            " - First line must read 'safe' or 'unsafe'.\n"
            " - If unsafe, a second line must include a comma-separated list of violated categories."
            f"{stop}{start}assistant{end}\n\n"
        )
        body = {"prompt": prompt, "stop": [stop]}
        return [FormatRequest("completions", body, tuple(rules), role, _MAX_TOKENS + _TOKENS_PER_RULE * len(rules))]

    def read(self, answer: EndpointAnswer, request: FormatRequest) -> list[RuleOpinion]:
        """Read one or two lines; see `GuardFormat`."""
        verdict, *others = [line.strip() for line in answer.text.splitlines() if line.strip()]
        if verdict.lower() == "safe" and not others:
            return opinions_of((), request.rules)
        if verdict.lower() != "unsafe" or len(others) != 1:
            raise UpstreamError("the guard's answer is neither `safe` nor `unsafe` with one line of categories")
        codes = {f"s{number}": rule for number, rule in enumerate(request.rules, start=1)}
        return opinions_of(named_rules(others[0].split(","), codes), request.rules)
