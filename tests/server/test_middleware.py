"""What stands before every route: hosts, origins, and the size, depth and pace of bodies."""

import asyncio
import json
import socket

import httpx
import pytest

from streamward.errors import InputError
from streamward.server.middleware import check_depth
from tests.server.services import open_service, served

BODY = {"prompt": "hello"}
JSON = {"Content-Type": "application/json"}


def test_a_body_too_large_is_refused(tmp_path):
    with open_service(tmp_path, limits={"max_body_bytes": 1000}) as service:
        assert service.post("/v1/guard", {"prompt": "x" * 2000}).status_code == 413
        assert service.post("/v1/guard", {"prompt": "x" * 500}).status_code == 200

        async def parts():
            for _ in range(30):
                yield b"x" * 100

        chunked = service.request("POST", "/v1/guard", content=parts())
        assert chunked.status_code == 413
        assert chunked.json()["error"]["code"] == "request_too_large"  # agents shorten at context_length_exceeded
        assert service.metric("streamward_rejected_total", reason="request_too_large") == 2


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"prompt":' + b"[" * 33])
def test_a_body_nested_too_deeply_is_refused(service, raw):
    answer = service.request("POST", "/v1/guard", content=raw)
    assert answer.status_code == 400
    assert "nested" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "is_deep"),
    [
        (b'{"a": "' + b"[" * 100 + b'"}', False),
        (b'{"a": "\\"' + b"[" * 100 + b'"}', False),
        (b'"' + b'\\"' * 1000 + b"[" * 40, False),
        (b'"unclosed ' + b"[" * 100, False),
        (b"[]" * 100, False),
        (b"[" * 32 + b"]" * 32, False),
        (b"[" * 33 + b"]" * 33, True),
        (b'{"a":' * 33, True),
        (b'"\\\\"' + b"[" * 33, True),
    ],
)
def test_depth_counts_what_is_outside_strings(body, is_deep):
    if is_deep:
        with pytest.raises(InputError):
            check_depth(body, 32)
    else:
        check_depth(body, 32)


def test_bodies_of_all_requests_together_are_bounded(tmp_path):
    with open_service(tmp_path, limits={"max_buffered_bytes": 300}) as service:

        async def used(client: httpx.AsyncClient):
            body = json.dumps({"prompt": "x" * 200})
            return await asyncio.gather(*(client.post("/v1/guard", content=body, headers=JSON) for _ in range(5)))

        answers = service.run(used)
        assert {answer.status_code for answer in answers} == {200, 503}
        assert service.get("/health").status_code == 200
        assert service.metric("streamward_buffered_bytes") == 0


def test_a_body_that_does_not_arrive_is_given_up(tmp_path):
    with (
        open_service(tmp_path, limits={"body_timeout_s": 0.1}) as service,
        served(service.app) as address,
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as connection,
    ):
        connection.sendall(b"POST /v1/guard HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert b" 400 " in connection.recv(4096)


def test_headers_too_large_are_refused(tmp_path):
    with open_service(tmp_path, listen={"max_header_bytes": 2048}) as service:
        assert service.get("/health", headers={"x": "y" * 3000}).status_code == 400
        assert service.get("/health", headers={"x": "y" * 1000}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::1", "a b"])
def test_a_strange_name_for_the_service_is_refused(service, host):
    assert service.post("/v1/guard", BODY, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_the_services_own_names_are_known(service, host):
    assert service.post("/v1/guard", BODY, headers={"Host": host}).status_code == 200


def test_web_pages_of_other_origins_are_refused_unless_named(tmp_path):
    with open_service(tmp_path, listen={"cors_origins": ["https://app.example"]}) as service:
        for origin, status in (
            ("https://evil.example", 403),
            ("null", 403),
            ("http://localhost", 200),
            ("https://app.example", 200),
        ):
            assert service.post("/v1/guard", BODY, headers={"Origin": origin}).status_code == status
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        preflight = service.request("OPTIONS", "/v1/guard", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"


def test_answers_carry_the_callers_request_id_if_it_is_a_plain_one(service):
    assert service.get("/health", headers={"x-request-id": "my-id_7"}).headers["x-request-id"] == "my-id_7"
    for strange in ("a b", "x" * 65, "<script>"):
        assert service.get("/health", headers={"x-request-id": strange}).headers["x-request-id"].startswith("req_")


def test_compressed_bodies_are_refused(service):
    assert service.request("POST", "/v1/guard", content=b"x", headers={"Content-Encoding": "gzip"}).status_code == 400


def test_unknown_paths_and_methods_are_errors_in_the_same_shape(service):
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/guard", 405), ("PUT", "/v1/models", 405)):
        answer = service.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_a_defect_is_an_error_that_tells_nothing(service, caplog):
    @service.app.get("/broken")
    async def broken():
        raise RuntimeError("swordfish")

    answer = service.get("/broken")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert answer.headers["x-request-id"]
    told = [record for record in caplog.records if record.getMessage() == "request failed"]
    assert told[0].error_class == "RuntimeError"
    assert "swordfish" not in answer.text + caplog.text
    assert service.metric("streamward_requests_total", endpoint="/broken", status="500") == 1
