"""Decisions, policies and the state of the service, as the console reads them."""

import asyncio

import pytest

from streamward.policy import Policy
from streamward.schema import Action, Decision, FiredRule, Result, RiskLevel, Side
from streamward.server.console_data import PolicyView
from streamward.server.guard_time import GuardTime
from streamward.server.policy_folder import LoadedPolicy
from streamward.server.records import ModerationContext, Texts
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service


@pytest.fixture
def judging(tmp_path):
    with open_service(tmp_path, guard=marked_guard()) as service:
        yield service


def stream(service, *pieces, **opening):
    opened = service.post("/v1/streams", opening).json()["stream"]
    for piece in pieces:
        service.post(f"/v1/streams/{opened}/append", {"text": piece})
    return service.post(f"/v1/streams/{opened}/close", {}).json()


def decisions(service, headers=None, **filters):
    found = service.get("/v1/decisions", params=filters, headers=headers)
    assert found.status_code == 200, found.text
    return found.json()


def test_waits_for_the_guard_are_summed_also_if_they_fail():
    now = iter([1.0, 1.5, 10.0, 10.25])
    time = GuardTime(lambda: next(now))
    assert time.ms is None
    with time.waiting():
        pass
    with pytest.raises(RuntimeError), time.waiting():
        raise RuntimeError
    assert time.ms == 750.0


def test_answers_state_tokens_and_the_time_of_the_guard(judging):
    answer = judging.post("/v1/guard", {"prompt": "hello", "response": "one # two"}).json()
    assert answer["num_tokens"] == 1 + len("one # two")
    assert answer["guard_ms"] > 0
    closed = stream(judging, "one ", "two", prompt="hello")
    assert closed["num_tokens"] == 1 + len("one two")
    assert closed["guard_ms"] > 0


def test_the_time_of_the_guard_is_apart_from_the_time_of_writing(judging):
    judging.post("/v1/guard", {"prompt": "hello"})
    stream(judging, "one ", "two", prompt="hello")
    of_stream, of_guard = decisions(judging)["decisions"]
    assert (of_guard["endpoint"], of_guard["writing_ms"]) == ("guard", None)
    assert 0 < of_guard["guard_ms"] <= of_guard["latency_ms"]
    assert of_stream["details"]["ended"] == "closed"
    assert of_stream["guard_ms"] + of_stream["writing_ms"] == pytest.approx(of_stream["latency_ms"])
    assert min(of_stream["guard_ms"], of_stream["writing_ms"]) > 0


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"action": "block"}, ["streams", "guard"]),
        ({"side": "response"}, ["streams"]),
        ({"category": "Violent", "endpoint": "guard"}, ["guard"]),
        ({"policy": "loose"}, ["guard"]),
        ({"upstream": "none"}, []),
        ({}, ["streams", "guard", "guard"]),
    ],
)
def test_decisions_are_filtered(judging, filters, expected):
    judging.post("/v1/guard", {"prompt": "hello", "policy": "loose"})
    judging.post("/v1/guard", {"prompt": "a #"})
    stream(judging, "one ##")
    assert [each["endpoint"] for each in decisions(judging, **filters)["decisions"]] == expected


def test_older_decisions_follow_on_the_last(judging):
    for _ in range(3):
        judging.post("/v1/guard", {"prompt": "hello"})
    first = decisions(judging, limit=2)
    rest = decisions(judging, limit=2, before=first["decisions"][-1]["id"])
    ids = [each["id"] for each in first["decisions"] + rest["decisions"]]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 3


@pytest.mark.parametrize("filters", [{"action": "shout"}, {"limit": 0}, {"limit": 1000}, {"tenant": "other"}])
def test_a_filter_that_is_wrong_is_told(judging, filters):
    assert judging.get("/v1/decisions", params=filters).status_code == 400


def test_decisions_are_of_the_callers_tenant_and_hold_no_text(tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "keeps.toml").write_text('name = "keeps"\n[recording]\ntext = "always"\n')
    with open_service(
        tmp_path, guard=marked_guard(), auth={"required": True}, policies={"folder": str(folder), "default": "keeps"}
    ) as service:
        one, two, admin = service.key("one"), service.key("two"), service.key("ops", is_admin=True)
        service.post("/v1/guard", {"prompt": "swordfish"}, headers=one)
        seen = [len(decisions(service, headers)["decisions"]) for headers in (one, two, admin)]
        text = service.get("/v1/decisions", headers=admin).text
    assert seen == [1, 0, 1]
    assert "swordfish" not in text
    assert "hash" not in text


def test_policies_are_those_that_the_caller_may_ask_for_with_the_thresholds_in_force(tmp_path):
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "own.toml").write_text(
        'name = "own"\nversion = "7"\n[response]\nconsecutive_tokens = 3\ncontroversial = "flag"\n'
        "[response.thresholds]\nunsafe = 0.75\n"
        '[[detectors]]\ntype = "words"\nid = "projects"\nwords = ["swordfish"]\naction = "block"\n'
    )
    with open_service(
        tmp_path, guard=marked_guard(), auth={"required": True}, policies={"folder": str(folder)}
    ) as service:
        headers = service.key("one", policy="own", other_policies=("loose",))
        own, loose = service.get("/v1/policies", headers=headers).json()
        everything = service.get("/v1/policies", headers=service.key("ops", is_admin=True)).json()
    assert (own["name"], own["version"], own["is_default"]) == ("own", "7", True)
    assert own["thresholds"] == {"prompt": {}, "response": {"Unsafe": 0.75}}
    assert own["consecutive_tokens"] == {"prompt": 1, "response": 3}
    assert own["response"]["controversial"] == "flag"
    assert own["on_error"] == {"prompt": "block", "response": "block"}
    assert [(each["id"], each["type"], each["action"]) for each in own["detectors"]] == [("projects", "words", "block")]
    assert "swordfish" not in str(own)
    assert (loose["name"], loose["is_default"]) == ("loose", False)
    assert [each["name"] for each in everything] == ["strict", "loose", "own"]


def test_the_state_of_guard_and_upstreams_is_told(tmp_path):
    upstreams = {
        "mine": {"base_url": "http://127.0.0.1:9/v1", "models": ["small"]},
        "other": {"base_url": "http://127.0.0.1:9/v1"},
    }
    with open_service(tmp_path, guard=marked_guard(), auth={"required": True}, upstreams=upstreams) as service:
        found = service.get("/v1/stats", headers=service.key("one", upstreams=("mine",))).json()
    assert found["upstream_states"] == {"mine": {"models": ["small"], "is_reachable": False}}
    assert found["health"]["status"] == "ready"
    assert "the upstream mine takes no connections" in found["health"]["warnings"]
    assert found["load"] == {"num_in_flight": 0, "guard_step_s": 0.0, "guard_wait_s": 0.0}


def test_rules_of_a_policy_are_told_without_their_words(judging):
    rules = [
        {"id": "no-advice", "text": "No advice on shares.", "applies_to": ["response"], "severity": "Controversial"}
    ]
    policy = Policy.parse({"name": "own", "response": {"controversial": "flag"}, "rules": rules}, source="test")
    view = PolicyView.of(judging.state, LoadedPolicy(policy, "0"), is_default=False)
    (rule,) = view.rules
    assert (rule.id, rule.severity, rule.threshold) == ("no-advice", "Controversial", 0.5)
    assert rule.actions == {"response": "flag"}
    assert "shares" not in view.model_dump_json()


def test_rules_that_fired_are_in_the_list_of_decisions(judging):
    fired = Decision(Action.BLOCK, Side.RESPONSE, RiskLevel.UNSAFE, rules=(FiredRule("no-advice", 0.875),))
    kept = judging.state.policies.default
    job = ModerationContext(request_id="r", tenant="local", key_id="k", endpoint="guard", policy=kept)
    asyncio.run(judging.state.record_decision(job, Result(fired), texts=Texts(None, "text")))
    (row,) = decisions(judging)["decisions"]
    assert row["rules"] == [{"id": "no-advice", "score": 0.875}]
