"""Connections on which nothing is asked, and too many of them."""

from contextlib import ExitStack

import httpx
import pytest
from websockets.sync.client import connect

from tests.server.services import bounded, open_service, served
from tests.server.test_gate import connected, read_all


@pytest.fixture
def listening(tmp_path):
    """Serve with these settings of `listen`; returns the address."""
    with ExitStack() as running:

        def listen(**settings: object) -> str:
            service = running.enter_context(open_service(tmp_path, listen=settings))
            return running.enter_context(served(service.app, http=bounded(service)))

        yield listen


@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: local"])
def test_headers_that_do_not_arrive_are_not_waited_for(listening, sent):
    with connected(listening(header_timeout_s=0.05)) as connection:
        connection.sendall(sent)
        assert read_all(connection) == b""


def test_a_second_request_that_does_not_arrive_is_not_waited_for(listening):
    with connected(listening(header_timeout_s=0.2)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_trickles_in_after_the_answer_does_not_keep_the_connection(listening):
    with connected(listening(header_timeout_s=0.05)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\nx")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_one_address_has_only_so_many_connections(listening):
    address = listening(max_connections_per_peer=2)
    with connected(address), connected(address):
        answer = read_all(connected(address))
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"retry-after: 1\r\n" in answer.lower()
    assert b"rate_limit_exceeded" in answer
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_trusted_proxy_has_as_many_connections_as_there_are(listening):
    address = listening(max_connections_per_peer=1, trusted_proxies=["127.0.0.1"])
    with connected(address), connected(address):
        assert httpx.get(f"{address}/health").status_code == 200


def test_connections_that_ask_for_nothing_give_way_to_those_that_do(listening):
    address = listening(max_connections=4)
    with ExitStack() as held:
        silent = [held.enter_context(connected(address)) for _ in range(4)]
        with httpx.Client(base_url=address) as client:
            assert client.get("/health").status_code == 200
            assert read_all(silent[0]) == b""
            for _ in range(3):
                held.enter_context(connected(address))
            assert httpx.get(f"{address}/health").status_code == 200


def test_where_all_connections_are_at_work_one_more_is_answered_503(listening):
    address = listening(max_connections=2)
    url = address.replace("http", "ws") + "/v1/streams"
    with connect(url), connect(url):
        answer = read_all(connected(address))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"overloaded" in answer
    assert httpx.get(f"{address}/health").status_code == 200
