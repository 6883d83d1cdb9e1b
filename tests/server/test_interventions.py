"""Answers that are changed in progress, through the service: what is logged, counted and told."""

import json
from contextlib import contextmanager

from streamward.server.live import LiveKind, LiveText
from streamward.server.proxy import open_gateway
from tests.gateway.continuing import Turns
from tests.gateway.scripted import chat, events_in, texts_in
from tests.server.marked_guard import marked_moderator
from tests.server.services import open_service
from tests.server.test_proxy import rows

POLICY = """
name = "changing"
[release]
mode = "intervene"
hold_tokens = 20
[[release.ladder]]
action = "regenerate"
attempts = 2
[[release.ladder]]
action = "refuse"
texts = { en = "No more." }
"""
UPSTREAMS = {"up": {"base_url": "http://upstream.test/v1", "prefill": "continue_final_message"}}


@contextmanager
def changing(folder, turns: Turns):
    policies = folder / "policies"
    policies.mkdir()
    (policies / "changing.toml").write_text(POLICY)
    moderator = marked_moderator()
    settings = {"upstreams": UPSTREAMS, "policies": {"folder": str(policies), "default": "changing"}}
    with open_service(folder, guard=moderator._guard, **settings) as service:
        gateway = open_gateway(service.state, transports={"up": turns})
        service.app.state.gateway = service.app.state.gateway._replace(gateway=gateway)
        yield service
    moderator.close()


def test_what_was_changed_is_logged_counted_and_told_on_request(tmp_path):
    with changing(tmp_path, Turns("Fine. Bad ## it", " Good.")) as service:
        answer = service.post("/up/v1/chat/completions", chat(), headers={"x-streamward-annotations": "guard"})
        metrics = service.get("/metrics").text
        (row,) = rows(service)
    assert texts_in(answer.content)[(0, "content")] == "Fine. Good."
    (told,) = [each["guard"] for each in events_in(answer.content) if "guard" in each]
    assert told["interventions"][0]["action"] == "regenerate"
    assert row["action"] == "allow"
    (logged,) = json.loads(row["details"])["interventions"]
    assert (logged["action"], logged["outcome"], logged["attempts"]) == ("regenerate", "continued", 1)
    assert "Bad" not in row["details"]
    counted = 'streamward_gateway_interventions_total{action="regenerate",outcome="continued",upstream="up"} 1.0'
    assert counted in metrics
    assert 'streamward_gateway_intervention_wait_tokens_count{action="regenerate",upstream="up"} 1.0' in metrics


def test_an_answer_that_could_not_be_changed_is_logged_as_blocked(tmp_path):
    with changing(tmp_path, Turns("Fine. ##", "##")) as service:
        answer = service.post("/up/v1/chat/completions", chat())
        (row,) = rows(service)
    assert texts_in(answer.content)[(0, "content")] == "Fine. No more."
    assert not [each for each in events_in(answer.content) if "guard" in each]
    assert (row["action"], row["side"]) == ("block", "response")
    assert json.loads(row["details"])["ending"] == "response_blocked"
    assert json.loads(row["details"])["interventions"][0]["outcome"] == "refused"


def test_dropped_tokens_are_shown_to_who_watches_all_tenants_only(tmp_path):
    with changing(tmp_path, Turns("Fine. Bad ## it", " Good.")) as service:
        feed = service.state.feed
        with feed.watched(None, owner="admin") as admin, feed.watched("local", owner="local") as tenant:
            service.post("/up/v1/chat/completions", chat())
            seen = [list(iter(lambda each=each: _next(each), None)) for each in (admin, tenant)]
    kinds = [[event.kind for event in events] for events in seen]
    assert LiveKind.DROPPED in kinds[0]
    assert LiveKind.DROPPED not in kinds[1]
    (dropped,) = [event for event in seen[0] if event.kind is LiveKind.DROPPED]
    assert any(event.kind is LiveKind.TOKENS and not event.tokens and event.start == dropped.start for event in seen[1])


def _next(subscriber):
    return None if subscriber._queue.empty() else subscriber._queue.get_nowait()


def test_the_text_that_is_shown_is_cut_where_the_answer_was():
    shown = LiveText()
    shown.add("one two three")
    shown.truncate(7)
    shown.add(" four")
    assert shown._tail == "one two four"
