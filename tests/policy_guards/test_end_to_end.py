"""A Gen guard behind the real service as the endpoint of the format qwen3guard, over a real connection."""

import pytest

from streamward.errors import UpstreamError
from streamward.moderation.gen_guard_adapter import GenGuardAdapter
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.policy_guards.built_in import BUILT_IN_RULES, CATEGORY_OF
from streamward.policy_guards.config import PolicyGuardConfig
from streamward.policy_guards.guard import PolicyGuard
from streamward.policy_guards.rules import GuardRule
from streamward.schema import Message, RiskLevel, Role
from tests.generative.gen_guards import gen_guard
from tests.server.services import open_service, served

CONVERSATIONS = [
    [Message(Role.USER, text)] if answer is None else [Message(Role.USER, text), Message(Role.ASSISTANT, answer)]
    for text in ("Hello", "How are you?", "What is a # good for?")
    for answer in (None, "Fine.", "I cannot tell.")
]


@pytest.fixture
def address(tmp_path):
    with open_service(tmp_path, guard=GenGuardAdapter(gen_guard())) as service, served(service.app) as served_at:
        yield served_at


def policy_guard(address: str, **changes) -> PolicyGuard:
    values = {"base_url": f"{address}/v1", "model": "gen", "format": "qwen3guard", "variant": "server", **changes}
    return PolicyGuard(PolicyGuardConfig.parse(values, source="test"))


def test_the_opinions_are_those_of_the_guard_itself(address):
    guard = policy_guard(address)
    with Moderator(GenGuardAdapter(gen_guard()), policy=Policy.load("strict")) as moderator:
        levels = set()
        for messages in CONVERSATIONS:
            report = guard.judge(messages, BUILT_IN_RULES)
            result = moderator.moderate(messages=messages)
            own = result.prompt if messages[-1].role is Role.USER else result.response
            levels.add(own.risk_level)
            expected = set() if own.risk_level is RiskLevel.SAFE else {own.category}
            assert {CATEGORY_OF[each.rule_id] for each in report.opinions if each.violated} == expected
            assert report.usage.calls == 1
    assert len(levels) > 1  # else the test would say little
    guard.close()


def test_a_category_that_was_not_asked_about_is_an_error(address):
    guard = policy_guard(address, categories={"other": "Copyright Violation"})
    rule = GuardRule("other", "No.")
    with pytest.raises(UpstreamError, match="not asked about"):
        for messages in CONVERSATIONS:
            guard.judge(messages, [rule])
    guard.close()


def test_a_service_that_asks_for_a_key_is_an_error(tmp_path):
    with (
        open_service(tmp_path, guard=GenGuardAdapter(gen_guard()), auth={"required": True}) as service,
        served(service.app) as address,
    ):
        guard = policy_guard(address)
        with pytest.raises(UpstreamError, match="status 401"):
            guard.judge(CONVERSATIONS[0], BUILT_IN_RULES)
        guard.close()
        secret, _ = service.state.keys.create("acme")
        guard = policy_guard(address, api_key=secret)
        assert guard.judge(CONVERSATIONS[0], BUILT_IN_RULES).opinions
        guard.close()
