"""The guard behind an endpoint: rules in, opinions out, deadlines, tries, cancellation, silence."""

import asyncio
import logging
import threading
import time

import httpx
import pytest

from streamward.errors import CallCancelledError, ConfigError, InputError, StreamClosedError, UpstreamError
from streamward.guard_call import GuardCall
from streamward.policy_guards.config import PolicyGuardConfig
from streamward.policy_guards.guard import PolicyGuard
from streamward.policy_guards.rules import GuardRule, RuleTarget, check_rules
from streamward.schema import Message, RiskLevel, Role
from tests.policy_guards.endpoints import DOSAGE, ON_PROMPTS, PRICES, PROMPT, RESPONSE, RULES, ScriptedEndpoint, chat

YES = chat("<score> yes </score>")
NO = chat("<score> no </score>")


def hanging_guard(**changes) -> tuple[PolicyGuard, threading.Event, threading.Event]:
    """A guard whose endpoint never answers, and events that say that a request came there, and was cancelled there."""
    arrived, cancelled = threading.Event(), threading.Event()

    async def hang(request: httpx.Request) -> httpx.Response:
        arrived.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    values = {"base_url": "http://guard/v1", "model": "guard", "format": "granite-guardian", **changes}
    config = PolicyGuardConfig.parse(values, source="test")
    return PolicyGuard(config, transport=httpx.MockTransport(hang)), arrived, cancelled


def test_opinions_come_back_by_rule_with_what_they_cost():
    endpoint = ScriptedEndpoint(YES, NO)
    guard = endpoint.guard("granite-guardian", max_concurrent=1)
    report = guard.judge(RESPONSE, RULES)
    assert [(each.rule_id, each.violated) for each in report.opinions] == [("no-prices", True), ("no_dosage", False)]
    usage = report.usage
    assert (usage.calls, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (2, 200, 160, 14)
    assert usage.seconds > 0
    guard.close()


def test_requests_carry_key_model_and_limits():
    endpoint = ScriptedEndpoint(NO)
    guard = endpoint.guard(
        "granite-guardian", max_answer_tokens=9, token_limit_field="max_completion_tokens", temperature=None
    )
    guard.judge(RESPONSE, [PRICES])
    (body,) = endpoint.bodies
    assert endpoint.requests[0].headers["Authorization"] == "Bearer open-sesame"
    assert str(endpoint.requests[0].url) == "http://guard/v1/chat/completions"
    assert (body["model"], body["max_completion_tokens"]) == ("guard", 9)
    assert "temperature" not in body
    assert "max_tokens" not in body
    guard.close()


def test_only_rules_that_apply_are_asked_about():
    endpoint = ScriptedEndpoint(NO)
    guard = endpoint.guard("granite-guardian")
    assert [each.rule_id for each in guard.judge(RESPONSE, [*RULES, ON_PROMPTS]).opinions] == ["no-prices", "no_dosage"]
    assert [each.rule_id for each in guard.judge(PROMPT, [ON_PROMPTS]).opinions] == ["polite"]
    assert guard.judge(RESPONSE, [ON_PROMPTS]).opinions == ()
    found = guard.judge(RESPONSE, [ON_PROMPTS, DOSAGE], targets={RuleTarget.TOOL_ARGUMENTS})
    assert [each.rule_id for each in found.opinions] == ["no_dosage"]
    assert len(endpoint.requests) == 4
    guard.close()


@pytest.mark.parametrize(
    "failure",
    [httpx.Response(429), httpx.Response(500), httpx.Response(503), httpx.ConnectError("x"), httpx.ReadTimeout("x")],
)
def test_passing_failures_are_tried_again(failure):
    endpoint = ScriptedEndpoint(failure, YES)
    guard = endpoint.guard("granite-guardian")
    report = guard.judge(RESPONSE, [PRICES])
    assert report.opinions[0].violated
    assert (report.usage.calls, endpoint.waits) == (2, [0.2])
    guard.close()


def test_tries_end():
    endpoint = ScriptedEndpoint(httpx.Response(503, headers={"Retry-After": "3"}))
    guard = endpoint.guard("granite-guardian", max_retries=2)
    with pytest.raises(UpstreamError, match="after 3 tries: status 503"):
        guard.judge(RESPONSE, [PRICES])
    assert endpoint.waits == [3.0, 3.0]
    guard.close()


@pytest.mark.parametrize("value", ["nan", "inf", "-5", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_nonsensical_wait_is_bounded(value):
    endpoint = ScriptedEndpoint(httpx.Response(429, headers={"Retry-After": value}), NO)
    guard = endpoint.guard("granite-guardian", deadline_s=4)
    guard.judge(RESPONSE, [PRICES])
    assert 0.2 <= endpoint.waits[0] <= 4
    guard.close()


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413])
def test_our_own_mistakes_are_not_tried_again(status):
    endpoint = ScriptedEndpoint(httpx.Response(status, text="swordfish"))
    guard = endpoint.guard("granite-guardian", max_retries=3)
    with pytest.raises(UpstreamError, match=f"status {status}"):
        guard.judge(RESPONSE, [PRICES])
    assert len(endpoint.requests) == 1
    guard.close()


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json=None),
        httpx.Response(200, json={"choices": []}),
        httpx.Response(200, json={"choices": [{}, {}]}),
        httpx.Response(200, json={"choices": ["no"]}),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b"[" * 5000),
        httpx.Response(200, content=b"x" * (2**20 + 1)),
        httpx.Response(200, json={"error": {"message": "swordfish"}}),
    ],
)
def test_what_is_no_completion_is_an_error(reply):
    guard = ScriptedEndpoint(reply).guard("granite-guardian")
    with pytest.raises(UpstreamError) as caught:
        guard.judge(RESPONSE, [PRICES])
    assert "swordfish" not in str(caught.value)
    guard.close()


def test_one_answer_that_cannot_be_read_spoils_them_all():
    guard = ScriptedEndpoint(YES, chat("I cannot say.")).guard("granite-guardian", max_concurrent=1)
    with pytest.raises(UpstreamError):
        guard.judge(RESPONSE, RULES)
    guard.close()


def test_a_deadline_ends_the_call_and_the_request_behind_it():
    guard, _, cancelled = hanging_guard(deadline_s=30)
    started = time.monotonic()
    with pytest.raises(UpstreamError, match=r"within 0\.2 s"):
        guard.judge(RESPONSE, RULES, deadline_s=0.2)
    assert time.monotonic() - started < 10
    assert cancelled.wait(5)
    guard.close()


def test_a_deadline_counts_waits_between_tries():
    endpoint = ScriptedEndpoint(httpx.Response(503, headers={"Retry-After": "60"}))
    values = {"base_url": "http://guard/v1", "model": "guard", "format": "granite-guardian", "deadline_s": 0.05}
    guard = PolicyGuard(PolicyGuardConfig.parse(values, source="test"), transport=httpx.MockTransport(endpoint))
    with pytest.raises(UpstreamError, match="within"):
        guard.judge(RESPONSE, [PRICES])
    guard.close()


def test_a_cancelled_call_waits_no_longer():
    guard, arrived, cancelled = hanging_guard(deadline_s=60)
    call, caught = GuardCall(), []

    def ask() -> None:
        with pytest.raises(CallCancelledError):
            call.make(lambda: guard.judge(RESPONSE, [PRICES]))
        caught.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    assert arrived.wait(10)
    call.cancel()
    thread.join(10)
    assert caught == [True]
    assert cancelled.wait(5)
    guard.close()


def test_closing_ends_calls_that_are_made():
    guard, arrived, _ = hanging_guard(deadline_s=60)
    caught = []

    def ask() -> None:
        with pytest.raises(StreamClosedError):
            guard.judge(RESPONSE, [PRICES])
        caught.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    assert arrived.wait(10)
    guard.close()
    guard.close()
    thread.join(10)
    assert caught == [True]
    with pytest.raises(StreamClosedError):
        guard.judge(RESPONSE, [PRICES])


def test_no_more_requests_are_under_way_than_allowed():
    open_now, most = 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.005)
        open_now -= 1
        return httpx.Response(200, content=NO.content)

    rules = [GuardRule(f"r{number}", "No.") for number in range(20)]
    values = {"base_url": "http://guard/v1", "model": "guard", "format": "granite-guardian", "max_concurrent": 3}
    guard = PolicyGuard(PolicyGuardConfig.parse(values, source="test"), transport=httpx.MockTransport(answer))
    assert guard.judge(RESPONSE, rules).usage.calls == 20
    assert most == 3
    guard.close()


def test_neither_key_nor_text_is_in_logs_errors_or_representations(caplog):
    caplog.set_level(logging.DEBUG)
    endpoint = ScriptedEndpoint(httpx.Response(400, text="open-sesame swordfish"))
    guard = endpoint.guard("json-schema")
    with pytest.raises(UpstreamError) as caught:
        guard.judge(PROMPT, [PRICES])
    shown = f"{caught.value} {caught.value.__cause__} {guard!r} {guard._endpoint._config!r} {caplog.text}"
    assert "open-sesame" not in shown
    assert "swordfish" not in shown
    guard.close()


def test_odd_characters_reach_the_guard():
    endpoint = ScriptedEndpoint(NO)
    guard = endpoint.guard("granite-guardian")
    guard.judge([Message(Role.USER, "a\ud800b \u0000 \U0001f600")], [GuardRule("x", "No \udc00.")])
    assert endpoint.bodies[0]["messages"][0]["content"] == "a\ufffdb \u0000 \U0001f600"
    guard.close()


@pytest.mark.parametrize("messages", [[], [Message(Role.SYSTEM, "Be kind.")]])
def test_a_conversation_without_a_turn_to_judge_is_refused(messages):
    guard = ScriptedEndpoint(NO).guard("json-schema")
    with pytest.raises(InputError):
        guard.judge(messages, [PRICES])
    guard.close()


@pytest.mark.parametrize(
    "rules",
    [
        [PRICES, PRICES],
        [GuardRule("a", "No."), GuardRule("A", "No.")],
        [GuardRule("", "No.")],
        [GuardRule("a,b", "No.")],
        [GuardRule("two words", "No.")],
        [GuardRule("caf\u00e9", "No.")],
        [GuardRule("-a", "No.")],
        [GuardRule("a" * 65, "No.")],
        [GuardRule("a", " \n")],
        [GuardRule("a", "No.", RiskLevel.SAFE)],
        [GuardRule("a", "x" * 32_001)],
        [GuardRule(f"r{number}", "No.") for number in range(101)],
    ],
)
def test_rules_that_cannot_be_asked_about_are_refused(rules):
    with pytest.raises(ConfigError):
        check_rules(rules)
