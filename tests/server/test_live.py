"""The feed of what is judged at this moment: who sees what, and what a slow subscriber costs."""

import asyncio
from datetime import UTC, datetime

import pytest

from streamward.decisions import ALLOWED
from streamward.errors import OverloadedError, RateLimitError
from streamward.schema import Action, Event, RiskLevel, Span, Verdict
from streamward.server.live import LiveEvent, LiveFeed, LiveKind, LiveText, LiveToken
from tests.server.services import open_service

PROBABILITIES = {RiskLevel.SAFE: 0.2, RiskLevel.CONTROVERSIAL: 0.3, RiskLevel.UNSAFE: 0.5}


def tokens_event(tenant="acme", number=0):
    token = LiveToken("swordfish", RiskLevel.SAFE, 0.1, 0.2, None)
    return LiveEvent(LiveKind.TOKENS, datetime.now(UTC), tenant, "streams", f"s{number}", tokens=(token,))


async def seen(feed, tenant, events):
    with feed.watched(tenant, owner=tenant or "ops") as subscriber:
        for event in events:
            feed.publish(event)
        found = []
        while event := await subscriber.next(0):
            found.append(event)
        return found, subscriber.num_lost


def test_watchers_see_their_tenant_only_and_admins_everything():
    feed = LiveFeed(has_text=True, max_subscribers=2, max_per_tenant=2)
    events = [tokens_event("acme"), tokens_event("other")]
    assert asyncio.run(seen(feed, "acme", events)) == (events[:1], 0)
    assert asyncio.run(seen(feed, None, events)) == (events, 0)
    assert not feed.is_watched


def test_text_is_taken_out_unless_the_settings_show_it():
    (found,), _ = asyncio.run(
        seen(LiveFeed(has_text=False, max_subscribers=1, max_per_tenant=1), None, [tokens_event()])
    )
    assert found.tokens[0].text == ""
    assert found.tokens[0].unsafe == 0.1


def test_a_slow_watcher_loses_the_oldest_events():
    events = [tokens_event(number=number) for number in range(300)]
    found, num_lost = asyncio.run(seen(LiveFeed(has_text=True, max_subscribers=1, max_per_tenant=1), None, events))
    assert found == events[num_lost:]
    assert num_lost == 300 - 256


def test_only_so_many_may_watch():
    feed = LiveFeed(has_text=True, max_subscribers=1, max_per_tenant=1)
    with feed.watched(None, owner="ops"), pytest.raises(OverloadedError), feed.watched("one", owner="one"):
        pass
    with feed.watched(None, owner="ops"):
        assert feed.is_watched


def test_watchers_of_one_tenant_do_not_take_the_places_of_all():
    feed = LiveFeed(has_text=True, max_subscribers=3, max_per_tenant=1)
    with feed.watched("one", owner="one"):
        with pytest.raises(RateLimitError), feed.watched("one", owner="one"):
            pass
        with feed.watched("two", owner="two"), feed.watched(None, owner="ops"):
            assert feed.is_watched
    with feed.watched("one", owner="one"):
        assert feed.is_watched


def test_tokens_are_told_with_what_they_say_as_far_as_it_is_kept():
    text = LiveText()
    text.add("x" * 10_000)
    text.add("the end")
    verdicts = [Verdict(0, RiskLevel.SAFE, PROBABILITIES, None, Span(0, 1))]
    verdicts += [Verdict(1, RiskLevel.SAFE, PROBABILITIES, None, Span(10_004, 10_007))]
    found = text.tokens([Event(verdict, ALLOWED) for verdict in verdicts]).tokens
    assert [token.text for token in found] == ["", "end"]
    assert (found[0].unsafe, found[0].controversial) == (0.5, 0.3)


def test_streams_and_decisions_are_seen_as_they_happen(tmp_path):
    with open_service(tmp_path, console={"live_text": True}) as service:

        async def used(client):
            with service.state.feed.watched(None, owner="ops") as subscriber:
                stream = (await client.post("/v1/streams", json={"prompt": "hello"})).json()["stream"]
                await client.post(f"/v1/streams/{stream}/append", json={"text": "the answer"})
                closed = (await client.post(f"/v1/streams/{stream}/close")).json()
                found = []
                while event := await subscriber.next(0):
                    found.append(event)
                return stream, closed, found

        stream, closed, found = service.run(used)
    assert [event.kind for event in found] == [LiveKind.OPENED, LiveKind.TOKENS, LiveKind.DECIDED]
    assert {event.stream_id for event in found} == {stream}
    assert "".join(token.text for token in found[1].tokens) == "the answer"
    assert found[2].action == Action(closed["decision"]["action"])
