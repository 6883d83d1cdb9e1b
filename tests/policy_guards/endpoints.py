"""An endpoint that answers with what it is told, in the shapes of chat completions and of completions."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from streamward.policy_guards.config import PolicyGuardConfig
from streamward.policy_guards.guard import PolicyGuard
from streamward.policy_guards.rules import GuardRule, RuleTarget
from streamward.schema import Message, RiskLevel, Role

PRICES = GuardRule(
    "no-prices",
    "Do not name prices of competitors.",
    examples=("Brand B sells it for 20 euros.",),
    counter_examples=("Our own price is 20 euros.",),
)
DOSAGE = GuardRule("no_dosage", "Do not tell how much of a medicine to take.", RiskLevel.CONTROVERSIAL)
ON_PROMPTS = GuardRule("polite", "Users must not insult.", applies_to=frozenset({RuleTarget.PROMPT}))
RULES = (PRICES, DOSAGE)
PROMPT = [Message(Role.USER, "swordfish price?")]
RESPONSE = [*PROMPT, Message(Role.ASSISTANT, "Brand B asks 20 euros.")]

Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def chat(content: object, *, finish_reason: str | None = "stop", **message: object) -> httpx.Response:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 80},
    }
    return httpx.Response(200, json={"choices": [choice], "usage": usage})


def completion(text: str, *, finish_reason: str = "stop", top: dict[str, float] | None = None) -> httpx.Response:
    logprobs = None if top is None else {"tokens": [text], "top_logprobs": [top]}
    choice = {"text": text, "finish_reason": finish_reason, "logprobs": logprobs}
    return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 1}})


class ScriptedEndpoint:
    """Gives the replies one after the other, the last one again and again, and remembers what it was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        await asyncio.sleep(0)
        found = reply if isinstance(reply, httpx.Response) else reply(request)
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def guard(self, name: str, **changes: Any) -> PolicyGuard:
        values = {"base_url": "http://guard/v1/", "model": "guard", "format": name, "api_key": "open-sesame", **changes}
        config = PolicyGuardConfig.parse(values, source="test")
        return PolicyGuard(config, transport=httpx.MockTransport(self), sleep=self._sleep)


def judge(reply: Reply, name: str, *, messages=RESPONSE, rules=RULES, **changes):
    """Ask once and return the opinions as (violated, score) by rule id."""
    guard = ScriptedEndpoint(reply).guard(name, **changes)
    try:
        report = guard.judge(messages, rules)
    finally:
        guard.close()
    return {opinion.rule_id: (opinion.violated, opinion.score) for opinion in report.opinions}


def sent(name: str, *, messages=RESPONSE, rules=RULES, reply: Reply | None = None, **changes):
    """Return the bodies that a format sends; the answers are not read."""
    from streamward.policy_guards.guard import guard_format

    values = {"base_url": "http://guard/v1", "model": "guard", "format": name, **changes}
    requests = guard_format(PolicyGuardConfig.parse(values, source="test")).requests(messages, rules)
    return [(request.path, dict(request.body)) for request in requests]
