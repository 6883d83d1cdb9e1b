"""Who gets in, before anything of a request's body is read."""

import asyncio
import select
import socket
from contextlib import ExitStack

import httpx
import pytest
from sqlalchemy import event
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from streamward.server.gate import is_open
from tests.server.services import bounded, open_service, served

BODY = {"prompt": "hello"}
PATHS = [
    "/v1/guard",
    "/v1/moderations",
    "/v1/streams",
    "/assistant/v1/chat/completions",
    "/beta/litellm_basic_guardrail_api",
    "/admin/keys",
    "/no/such/path",
]


def connected(address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=30)


def stalled(address: str, path: str, *lines: str, sent: bytes = b"{") -> socket.socket:
    """A request whose body does not arrive."""
    connection = connected(address)
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Length: 2000000", *lines, "", ""]
    connection.sendall("\r\n".join(head).encode() + sent)
    return connection


def read_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def read_one(connection: socket.socket) -> bytes:
    """Read one answer that is an error."""
    answer = b""
    while not answer.endswith(b"}}"):
        answer += connection.recv(65536) or b"}}"
    return answer


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", [(), ("Authorization: Bearer sw-wrong",)])
def test_nobodys_body_is_not_waited_for(closed_service, path, key):
    with served(closed_service.app, http=bounded(closed_service)) as address:
        answer = read_all(stalled(address, path, *key))  # to the end of the connection
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer.lower()
    assert b"invalid_api_key" in answer
    assert closed_service.metric("streamward_buffered_bytes") == 0


def test_whoever_has_no_key_takes_no_memory_from_those_who_have(tmp_path):
    limits = {"max_buffered_bytes": 100_000}
    with (
        open_service(tmp_path, auth={"required": True}, limits=limits) as service,
        served(service.app, http=bounded(service)) as address,
        ExitStack() as held,
    ):
        for _ in range(64):
            held.enter_context(stalled(address, "/v1/guard", sent=b"x" * 50_000))
        answer = httpx.post(f"{address}/v1/guard", json=BODY, headers=service.key())
    assert answer.status_code == 200


def test_a_client_that_still_writes_reads_its_refusal(closed_service):
    with served(closed_service.app, http=bounded(closed_service)) as address:
        answer = httpx.post(f"{address}/v1/guard", content=b"x" * 2**20, headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_small_request_that_is_refused_keeps_its_connection(closed_service):
    with served(closed_service.app, http=bounded(closed_service)) as address, connected(address) as connection:
        for _ in range(2):
            connection.sendall(b"POST /v1/guard HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            answer = read_one(connection)
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b"connection: close" not in answer.lower()


def test_every_route_but_the_open_ones_asks_for_a_key(closed_service):
    paths = closed_service.get("/openapi.json").json()["paths"]
    asked = [(method, path) for path, methods in paths.items() for method in methods if not is_open(path)]
    assert len(asked) > 20
    for method, path in asked:
        assert closed_service.request(method.upper(), path).status_code == 401
    for path in ("/", "/health", "/ready", "/metrics", "/openapi.json", "/assets/console.js"):
        assert closed_service.get(path).status_code == 200


def test_open_routes_read_no_body(closed_service):
    with served(closed_service.app, http=bounded(closed_service)) as address, connected(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_bodies_of_one_key_leave_room_for_others(tmp_path):
    limits = {"max_buffered_bytes_per_key": 60_000}
    with open_service(tmp_path, auth={"required": True}, limits=limits) as service:
        one, two = service.key("one"), service.key("two")
        body = b'{"prompt": "hello"' + b" " * 40_000 + b"}"

        async def post(client: httpx.AsyncClient, key):
            return await client.post("/v1/guard", content=body, headers={**key, "Content-Type": "application/json"})

        async def used(client: httpx.AsyncClient):
            return await asyncio.gather(*(post(client, one) for _ in range(5)), post(client, two))

        *greedy, other = service.run(used)
        assert {answer.status_code for answer in greedy} == {200, 429}
        assert other.status_code == 200
        assert service.run(lambda client: post(client, one)).status_code == 200
        assert service.metric("streamward_buffered_bytes") == 0


def test_one_body_may_be_as_long_as_any_body_may(tmp_path):
    with open_service(tmp_path, limits={"max_buffered_bytes_per_key": 100}) as service:
        assert service.post("/v1/guard", {"prompt": "x" * 5000}).status_code == 200


def test_a_key_has_only_so_many_requests_arriving_at_the_same_time(closed_service):
    headers = closed_service.key(max_concurrent=1)
    line = f"Authorization: {headers['Authorization']}"
    with served(closed_service.app, http=bounded(closed_service)) as address, ExitStack() as held:
        connections = [held.enter_context(stalled(address, "/v1/guard", line)) for _ in range(18)]
        (refused, *others), _, _ = select.select(connections, [], [], 30)
        assert others == []
        answer = read_all(refused)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in answer.lower()
        assert httpx.post(f"{address}/v1/guard", json=BODY, headers=closed_service.key()).status_code == 200


def test_a_key_has_only_so_many_websockets_and_requests_besides(tmp_path):
    with (
        open_service(tmp_path, auth={"required": True}, streams={"max_sockets_per_key": 2}) as service,
        served(service.app, http=bounded(service)) as address,
        ExitStack() as held,
    ):
        headers, url = service.key(), address.replace("http", "ws") + "/v1/streams"
        for _ in range(2):
            held.enter_context(connect(url, additional_headers=headers))
        with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=headers):
            pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["retry-after"] == "1"
        assert httpx.post(f"{address}/v1/guard", json=BODY, headers=headers).status_code == 200
        with connect(url, additional_headers=service.key()):
            pass


def test_a_websocket_on_which_nothing_is_said_is_closed(tmp_path):
    with (
        open_service(tmp_path, streams={"socket_idle_s": 0.05}) as service,
        served(service.app) as address,
        connect(address.replace("http", "ws") + "/v1/streams") as connection,
    ):
        assert "socket_idle_s" in connection.recv(timeout=30)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


@pytest.fixture
def counted(tmp_path):
    """A service that asks for keys, and the list of its queries for keys."""
    queries: list[str] = []
    with open_service(tmp_path, auth={"required": True, "wrong_keys_per_minute": 5}) as service:

        @event.listens_for(service.state.engine, "before_cursor_execute")
        def note(connection, cursor, statement, parameters, context, executemany):
            if "FROM api_keys" in statement:
                queries.append(statement)

        yield service, queries


def wrong(number: int) -> dict[str, str]:
    return {"Authorization": f"Bearer sw-abcdefghij-{number:043}"}


def test_hundreds_of_wrong_keys_are_a_handful_of_queries_and_then_429(counted):
    service, queries = counted

    async def used(client: httpx.AsyncClient):
        return [await client.post("/v1/guard", json=BODY, headers=wrong(number)) for number in range(300)]

    answers = service.run(used)
    assert [answer.status_code for answer in answers[:5]] == [401] * 5
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) > 250
    assert {answer.json()["error"]["code"] for answer in refused} == {"rate_limit_exceeded"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 12 for answer in refused)
    assert len(queries) == 300 - len(refused)


def test_the_same_wrong_key_is_looked_for_once(counted):
    service, queries = counted
    for _ in range(4):
        assert service.post("/v1/guard", BODY, headers=wrong(1)).status_code == 401
    assert len(queries) == 1


def test_a_peers_wrong_keys_do_not_lock_out_a_key_that_was_good_before(counted):
    service, _ = counted
    headers, late = service.key(), service.key()
    assert service.post("/v1/guard", BODY, headers=headers).status_code == 200
    for number in range(20):
        service.post("/v1/guard", BODY, headers=wrong(number))
    assert service.post("/v1/guard", BODY, headers=headers).status_code == 200
    assert service.post("/v1/guard", BODY, headers=late).status_code == 429  # nobody can tell it from a guess


def test_good_keys_are_not_counted_as_wrong_ones(counted):
    service, _ = counted
    for _ in range(10):
        assert service.post("/v1/guard", BODY, headers=service.key()).status_code == 200


def test_the_admin_key_of_the_environment_is_not_locked_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_ADMIN_KEY", "correct horse battery staple")
    auth = {"required": True, "admin_key_env": "MY_ADMIN_KEY", "wrong_keys_per_minute": 1}
    with open_service(tmp_path, auth=auth) as service:
        for number in range(3):
            service.get("/admin/keys", headers=wrong(number))
        headers = {"Authorization": "Bearer correct horse battery staple"}
        assert service.get("/admin/keys", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("trusted", "told", "status"),
    [
        ((), "203.0.113.{}", 429),
        (("127.0.0.1",), "203.0.113.{}", 401),
        (("127.0.0.0/8",), "198.51.100.1, 203.0.113.{}, 127.0.0.2", 401),
        (("127.0.0.1",), "203.0.113.{}, 198.51.100.1", 429),  # what the client itself claims does not count
        (("127.0.0.1",), "2001:db8::{}", 429),  # one network
        (("127.0.0.1",), "nonsense {}", 429),
    ],
)
def test_peers_are_told_apart_by_what_trusted_proxies_say(tmp_path, trusted, told, status):
    auth = {"required": True, "wrong_keys_per_minute": 1}
    with open_service(tmp_path, auth=auth, listen={"trusted_proxies": trusted}) as service:
        for number in range(2):
            headers = {**wrong(number), "X-Forwarded-For": told.format(number)}
            answer = service.post("/v1/guard", BODY, headers=headers)
    assert answer.status_code == status
