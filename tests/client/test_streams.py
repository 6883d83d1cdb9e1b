"""Streams of a client: as the moderator's own, whatever happens to the connection."""

import asyncio
import time
from contextlib import suppress

import pytest

import streamward
from streamward.schema import Action, Event
from tests.client.cutting_proxy import cutting
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service, served

PIECES = ["The ", "bread ne", "eds ", "wat", "er, sa", "lt ", "and # pa", "tience"]
TEXT = "".join(PIECES)


@pytest.fixture
def service(tmp_path):
    with open_service(tmp_path, guard=marked_guard()) as opened:
        yield opened


@pytest.fixture
def url(service):
    with served(service.app) as address:
        yield address


@pytest.fixture
def expected(service):
    """Every event of the moderator's own stream, and its result."""
    with service.state.moderator.stream(prompt="hello") as stream:
        return [event for piece in PIECES for event in stream.feed(piece)], stream.finish()


def read(url: str, pieces: list[str] = PIECES) -> tuple[list[Event], streamward.Result]:
    with streamward.connect(url) as client, client.stream(prompt="hello") as stream:
        return [event for piece in pieces for event in stream.feed(piece)], stream.finish()


async def aread(url: str, pieces: list[str] = PIECES) -> tuple[list[Event], streamward.Result]:
    async with streamward.connect(url) as client, client.astream(prompt="hello") as stream:
        return [event for piece in pieces for event in await stream.feed(piece)], await stream.finish()


def final(events: list[Event]) -> list[object]:
    """The last verdict of each position: a piece that was cut short is judged with the next."""
    return list({event.verdict.position: event.verdict for event in events}.values())


def test_events_and_result_are_the_moderators(url, expected):
    assert read(url) == expected
    assert asyncio.run(aread(url)) == expected


@pytest.mark.parametrize("is_forwarded", [False, True])
@pytest.mark.parametrize("budget", range(1, 9))
def test_a_connection_that_breaks_at_any_message_changes_nothing(url, expected, budget, is_forwarded):
    with cutting(url, budget, is_forwarded=is_forwarded) as proxy:
        events, result = read(proxy.url)
        assert proxy.num_connections == 2
    assert (final(events), result) == (final(expected[0]), expected[1])
    with cutting(url, budget, is_forwarded=is_forwarded) as proxy:
        events, result = asyncio.run(aread(proxy.url))
        assert proxy.num_connections == 2
    assert (final(events), result) == (final(expected[0]), expected[1])


def test_connections_that_break_again_and_again_change_nothing(url, expected):
    with cutting(url, 2, 1, 3, 2, 2) as proxy:
        events, result = read(proxy.url)
        assert proxy.num_connections > 3
    assert (final(events), result) == (final(expected[0]), expected[1])


def test_a_connection_that_was_idle_for_too_long_is_made_again(tmp_path):
    with (
        open_service(tmp_path, guard=marked_guard(), streams={"socket_idle_s": 0.1}) as service,
        served(service.app) as url,
        streamward.connect(url) as client,
        client.stream(prompt="hello") as stream,
    ):
        stream.feed("The ")
        time.sleep(0.4)
        assert stream.feed("bread")
        assert stream.finish().decision.action is Action.ALLOW


def test_a_service_that_does_not_come_back_is_an_upstream_error(service):
    with served(service.app) as url, cutting(url) as proxy:
        client = streamward.connect(proxy.url, resume_s=0.3)
        with client.stream() as stream:
            stream.feed("The ")
            proxy.close()
            with pytest.raises(streamward.UpstreamError, match="cannot be reached"):
                stream.feed("bread")
        client.close()


def test_a_stream_that_the_service_let_go_is_closed(tmp_path):
    with (
        open_service(tmp_path, guard=marked_guard()) as service,
        served(service.app) as url,
        streamward.connect(url) as client,
        client.stream() as stream,
    ):
        stream.feed("The ")
        answer = service.post(f"/v1/streams/{stream.id}/close", {})
        assert answer.status_code == 200
        with pytest.raises(streamward.StreamClosedError):
            stream.feed("bread")
        with pytest.raises(streamward.StreamClosedError):
            stream.finish()


def test_decision_and_releasable_chars_follow_the_text(url):
    with streamward.connect(url) as client, client.stream(prompt="hello") as stream:
        assert stream.prompt.risk_level == "Safe"
        stream.feed("fine ")
        assert stream.releasable_chars == 5
        stream.feed("##")
        assert (stream.decision.action, stream.releasable_chars) == (Action.BLOCK, 5)
        assert stream.finish() == stream.finish()
        with pytest.raises(streamward.StreamClosedError):
            stream.feed("more")


def test_pieces_may_be_token_ids_or_reasoning(service, url):
    with service.state.moderator.stream() as local:
        expected = [*local.feed_reasoning("well"), *local.feed([70, 71])]
    with streamward.connect(url) as client, client.stream() as stream:
        assert [*stream.feed_reasoning("well"), *stream.feed([70, 71])] == expected
        with pytest.raises(streamward.InputError):
            stream.feed([10**6])
        with pytest.raises(streamward.InputError):
            stream.feed(b"bytes")
        with pytest.raises(streamward.InputError):
            stream.feed_reasoning("too late")
        assert stream.feed("goes on")


def test_a_stream_works_in_its_block_only(url):
    with streamward.connect(url) as client:
        stream = client.stream()
        with pytest.raises(streamward.StreamClosedError):
            stream.feed("hello")
        with stream:
            pass
        with pytest.raises(streamward.StreamClosedError):
            stream.feed("hello")


def test_a_prompt_that_cannot_be_judged_opens_nothing(url):
    with streamward.connect(url) as client:
        stream = client.stream(messages=[{"role": "nobody", "content": "x"}])
        with pytest.raises(streamward.InputError), stream:
            pass
        assert stream.id is None


def test_leaving_a_stream_ends_it_at_once(service, url):
    with streamward.connect(url) as client, client.stream() as stream:
        stream.feed("hello")
    assert service.get(f"/v1/streams/{stream.id}").status_code == 409


def test_a_call_that_was_cancelled_leaves_a_stream_that_goes_on(url, expected):
    async def read_with_interruptions() -> streamward.Result:
        async with streamward.connect(url) as client, client.astream(prompt="hello") as stream:
            fed = ""
            for index, piece in enumerate(PIECES):
                feeding = asyncio.ensure_future(stream.feed(piece))
                if index % 2:
                    await asyncio.sleep(0)
                    feeding.cancel()
                with suppress(asyncio.CancelledError):
                    await feeding
                fed += piece
            return await stream.finish()

    result = asyncio.run(read_with_interruptions())
    assert result.decision == expected[1].decision
    assert result.prompt == expected[1].prompt


def test_a_guard_that_fails_ends_the_stream_as_the_policy_says(tmp_path):
    guard = marked_guard()
    with (
        open_service(tmp_path, guard=guard) as service,
        served(service.app) as url,
        streamward.connect(url) as client,
        client.stream() as stream,
    ):
        stream.feed("fine")
        guard.close()
        assert stream.feed("more") == []
        assert (stream.decision.action, stream.releasable_chars) == (Action.BLOCK, 4)
        assert stream.decision.error is not None
        assert stream.finish().decision == stream.decision
