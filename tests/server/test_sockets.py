"""WebSockets over a real connection: refusals, limits, clients that vanish or do not listen."""

import json
import socket

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.server.services import open_service, served


def address_of(url: str) -> str:
    return url.replace("http://", "ws://") + "/v1/streams"


def ask(connection: ClientConnection, **message):
    connection.send(json.dumps(message))
    return json.loads(connection.recv(timeout=30))


def test_a_wrong_key_is_answered_401_with_the_usual_error(closed_service):
    with served(closed_service.app) as url:
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(address_of(url), additional_headers={"Authorization": "Bearer sw-wrong"}),
        ):
            pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
        with connect(address_of(url), additional_headers=closed_service.key()) as connection:
            assert ask(connection, type="open", prompt="hello")["type"] == "opened"


def test_a_connection_beyond_the_rate_is_answered_as_any_request_is(closed_service):
    headers = closed_service.key(requests_per_minute=1)
    with served(closed_service.app) as url:
        with connect(address_of(url), additional_headers=headers):
            pass
        with pytest.raises(InvalidStatus) as refused, connect(address_of(url), additional_headers=headers):
            pass
    answer = refused.value.response
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_message_too_large_ends_the_connection_with_1009(service):
    with served(service.app, ws_max_size=1000) as url, connect(address_of(url)) as connection:
        stream = ask(connection, type="open")["stream"]
        connection.send(json.dumps({"type": "append", "stream": stream, "text": "x" * 5000}))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_streams_of_a_connection_that_was_cut_are_resumed(service):
    with served(service.app) as url:
        with connect(address_of(url)) as connection:
            stream = ask(connection, type="open", prompt="hello")["stream"]
            first = ask(connection, type="append", stream=stream, text="the other", seq=0)
            connection.socket.shutdown(socket.SHUT_RDWR)  # no closing words
        with connect(address_of(url)) as another:
            resumed = ask(another, type="resume", stream=stream)
            assert resumed["missed"] == [first]
            assert ask(another, type="close", stream=stream)["type"] == "closed"


def test_a_client_that_sends_and_never_listens_does_not_fill_the_memory(tmp_path):
    with open_service(tmp_path) as service, served(service.app) as url, connect(address_of(url)) as connection:
        stream = ask(connection, type="open")["stream"]
        for _ in range(500):
            connection.send(json.dumps({"type": "append", "stream": stream, "text": "a "}))
        answers = [json.loads(connection.recv(timeout=60)) for _ in range(500)]
        assert [answer["seq"] for answer in answers] == list(range(500))
        assert ask(connection, type="close", stream=stream)["type"] == "closed"
