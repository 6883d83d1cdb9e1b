"""A guard that is given the policy's words: a format, and an endpoint that speaks it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

import httpx

from streamward.errors import ConfigError, UpstreamError
from streamward.policy_guards.config import GuardFormatName, PolicyGuardConfig
from streamward.policy_guards.endpoint import GuardEndpoint
from streamward.policy_guards.exchange import GuardFormat
from streamward.policy_guards.formats.dynaguard import DynaGuardFormat
from streamward.policy_guards.formats.gpt_oss_safeguard import GptOssSafeguardFormat
from streamward.policy_guards.formats.granite_guardian import GraniteGuardianFormat
from streamward.policy_guards.formats.json_schema import JsonSchemaFormat
from streamward.policy_guards.formats.llama_guard import LlamaGuardFormat
from streamward.policy_guards.formats.nemotron import NemotronFormat
from streamward.policy_guards.formats.qwen3guard import Qwen3GuardFormat
from streamward.policy_guards.formats.shieldgemma import ShieldGemmaFormat
from streamward.policy_guards.framing import judged_role
from streamward.policy_guards.rules import GuardRule, RuleOpinion, RuleReport, RuleTarget, check_rules
from streamward.schema import Message, Role

_WITH_VARIANTS = {
    GuardFormatName.LLAMA_GUARD,
    GuardFormatName.GRANITE_GUARDIAN,
    GuardFormatName.NEMOTRON,
    GuardFormatName.QWEN3GUARD,
}


class PolicyGuard:
    """Judges the last turn of a conversation by rules in words. Thread-safe; close it."""

    def __init__(
        self,
        config: PolicyGuardConfig,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Be ready to ask; nothing is asked yet.

        Args:
            config: Where, in which format, and how patiently.
            transport: Replaced in tests.
            sleep: Waits between tries; replaced in tests.

        Raises:
            ConfigError: A setting does not go with the format, or the environment variable holds no key.
        """
        self._format = guard_format(config)
        self._endpoint = GuardEndpoint(config, transport=transport, sleep=sleep)

    def judge(
        self,
        messages: Sequence[Message],
        rules: Sequence[GuardRule],
        *,
        targets: Collection[RuleTarget] | None = None,
        deadline_s: float | None = None,
    ) -> RuleReport:
        """Judge the last turn by the rules that apply to it. Nothing is asked if none does.

        Args:
            messages: A conversation that ends with the user's or the assistant's turn.
            rules: Rules of the policy.
            targets: What the last turn is; by default a prompt or a response, by its role. A rule applies if it is
                about one of them.
            deadline_s: For all answers; the setting counts if it is shorter.

        Raises:
            UpstreamError: The guard did not answer in its format. No rule counts as kept.
            UpstreamUnavailableError: It did not answer, or not in time.
            ConfigError: The rules cannot be asked about.
            InputError: The conversation ends with no turn of the user or the assistant.
            CallCancelledError: The current call was cancelled.
            StreamClosedError: The guard was closed.
        """
        check_rules(rules)
        role = judged_role(messages)
        what = targets or {RuleTarget.PROMPT if role is Role.USER else RuleTarget.RESPONSE}
        applicable = [rule for rule in rules if not rule.applies_to.isdisjoint(what)]
        if not applicable:
            return RuleReport(())
        requests = self._format.requests(messages, applicable)
        answers, usage = self._endpoint.ask(requests, deadline_s=deadline_s)
        found: dict[str, RuleOpinion] = {}
        for request, answer in zip(requests, answers, strict=True):
            found |= {opinion.rule_id: opinion for opinion in self._format.read(answer, request)}
        if found.keys() != {rule.id for rule in applicable}:
            raise UpstreamError("the guard's answers are not about the rules that it was asked about")
        return RuleReport(tuple(found[rule.id] for rule in applicable), usage)

    def close(self) -> None:
        """Cancel what is under way and close the connections."""
        self._endpoint.close()


def guard_format(config: PolicyGuardConfig) -> GuardFormat:
    """Return the format that settings name.

    Raises:
        ConfigError: A setting does not go with it.
    """
    name, variant, thinking = config.format, config.variant, config.thinking
    if variant is not None and name not in _WITH_VARIANTS:
        raise ConfigError(f"the format {name} has no variants; leave variant out")
    if config.categories and name is not GuardFormatName.QWEN3GUARD:
        raise ConfigError("categories goes with the format qwen3guard, variant server")
    match name:
        case GuardFormatName.GPT_OSS_SAFEGUARD:
            return GptOssSafeguardFormat(thinking=thinking)
        case GuardFormatName.LLAMA_GUARD:
            return LlamaGuardFormat(variant or "4")
        case GuardFormatName.SHIELDGEMMA:
            return ShieldGemmaFormat()
        case GuardFormatName.GRANITE_GUARDIAN:
            return GraniteGuardianFormat(variant or "4.1", thinking=thinking)
        case GuardFormatName.NEMOTRON:
            return NemotronFormat(variant or "custom-taxonomy", thinking=thinking)
        case GuardFormatName.DYNAGUARD:
            return DynaGuardFormat(thinking=thinking)
        case GuardFormatName.QWEN3GUARD:
            return Qwen3GuardFormat(variant or "rendered", categories=config.categories)
        case GuardFormatName.JSON_SCHEMA:
            return JsonSchemaFormat()
