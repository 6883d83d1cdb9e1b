"""The client against the real application: results, errors, addresses and keys."""

import asyncio
import inspect
import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI

import streamward
from streamward import errors
from streamward.client.replies import error_of_response
from streamward.schema import Action, Category, Message, RiskLevel, Role, Side
from streamward.server.errors import error_response
from tests import loopback
from tests.server.marked_guard import marked_guard
from tests.server.services import open_service, served

CONVERSATION = [Message(Role.USER, "hello"), Message(Role.ASSISTANT, "a ## b")]


@pytest.fixture
def service(tmp_path):
    with open_service(tmp_path, guard=marked_guard()) as opened:
        yield opened


@pytest.fixture
def url(service):
    with served(service.app) as address:
        yield address


def plain(result: streamward.Result) -> tuple[object, ...]:
    return result.decision, result.prompt, result.response


def test_a_result_is_what_the_moderator_says(service, url):
    with streamward.connect(url) as client:
        result = client.moderate("hello", "a ## b", verdicts=True)
        assert plain(result) == plain(service.state.moderator.moderate("hello", "a ## b"))
        assert (result.response.first_flagged_char, result.response.first_flagged_token) == (3, 3)
        assert (result.guard, result.policy.name) == ("stream-135m", "strict")
        assert result.id.startswith("req_")
        assert client.moderate("hello").prompt.verdicts == ()
        assert plain(client.moderate(messages=CONVERSATION)) == plain(client.moderate("hello", "a ## b"))
        assert client.moderate(messages=[{"role": "user", "content": "#"}]).decision.action is Action.BLOCK


def test_calls_of_an_event_loop_give_the_same(url):
    async def ask() -> tuple[streamward.ServiceResult, streamward.ModerationList]:
        async with streamward.connect(url) as client:
            first, _ = await asyncio.gather(client.amoderate("hello", "##"), client.amoderate("hello"))
            return first, await client.amoderations("#")

    with streamward.connect(url) as client:
        result, moderations = asyncio.run(ask())
        assert plain(result) == plain(client.moderate("hello", "##"))
        assert moderations.results == client.moderations("#").results


def test_one_client_serves_several_event_loops(url):
    client = streamward.connect(url)

    async def ask() -> Action:
        async with client:
            return (await client.amoderate("hello")).decision.action

    assert [asyncio.run(ask()) for _ in range(2)] == [Action.ALLOW, Action.ALLOW]


def test_moderations_come_in_openais_words(url):
    with streamward.connect(url) as client:
        answer = client.moderations(["hello", "##"], side=Side.RESPONSE)
        assert [each.flagged for each in answer.results] == [False, True]
        flagged = answer.results[1]
        assert flagged.categories["violence"]
        assert flagged.category_scores["violence"] > 0.9
        assert flagged.category_applied_input_types["violence"] == ("text",)
        details = flagged.streamward
        assert (details.risk_level, details.first_flagged_char, details.span) == (RiskLevel.UNSAFE, 1, (1, 2))
        assert details.categories[Category.VIOLENT]
        assert details.decision.side is Side.RESPONSE
        assert not client.moderations("hello").results[0].flagged


def test_a_policy_is_asked_for_by_name(url):
    with streamward.connect(f"{url}/v1/", policy="loose") as client:
        assert client.moderate("hello").policy.name == "loose"
        assert client.moderate("hello", policy="strict").policy.name == "strict"
        assert client.moderations("hello").results[0].streamward.policy.name == "loose"
        with pytest.raises(streamward.InputError, match="policy"):
            client.moderate("hello", policy="unheard-of")
        with pytest.raises(streamward.InputError, match="valid Unicode"):
            client.moderate("half a pair: \ud800")
        with pytest.raises(streamward.InputError), client.stream(prompt="half a pair: \ud800"):
            pass
        with pytest.raises(streamward.InputError), client.stream(policy="unheard-of"):
            pass


def test_refusals_are_the_librarys_exceptions(tmp_path, monkeypatch):
    with (
        open_service(tmp_path, guard=marked_guard(), auth={"required": True}, limits={"max_chars": 50}) as service,
        served(service.app) as url,
    ):
        key = service.key(policy="strict", other_policies=(), requests_per_minute=6)["Authorization"].split()[1]
        for wrong in ("sw-wrong", ""):
            with streamward.connect(url, api_key=wrong) as client:
                with pytest.raises(streamward.AuthenticationError):
                    client.moderate("hello")
                with pytest.raises(streamward.AuthenticationError), client.stream():
                    pass
        monkeypatch.setenv("STREAMWARD_API_KEY", key)
        with streamward.connect(url) as client:
            with pytest.raises(streamward.ContextLengthError):
                client.moderate("x" * 51)
            with pytest.raises(streamward.InputError):
                client.moderate(" ")
            with pytest.raises(streamward.ForbiddenError):
                client.moderate("hello", policy="loose")
            with pytest.raises(streamward.RateLimitError) as limited:
                for _ in range(8):
                    client.moderate("hello")
            assert 1 <= limited.value.retry_after_s <= 60
            with pytest.raises(streamward.RateLimitError), client.stream():
                pass


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_every_error_comes_back_as_its_own_class(kind):
    if not issubclass(kind, streamward.StreamwardError):
        return
    error = kind("what", retry_after_s=7.0) if kind is streamward.RateLimitError else kind("what")
    response = error_response(error)
    found = error_of_response(response.status_code, response.headers, response.body)
    assert (type(found), str(found)) == (kind, "what")
    assert getattr(found, "retry_after_s", 7.0) == 7.0


def test_what_is_no_service_is_an_upstream_error():
    other = FastAPI()

    @other.post("/v1/guard")
    def guard() -> dict[str, int]:
        return {"hello": 1}

    with loopback.served(other) as url, streamward.connect(url) as client:
        with pytest.raises(streamward.UpstreamError, match="another format"):
            client.moderate("hello")
        with pytest.raises(streamward.UpstreamError, match="404"):
            client.moderations("hello")
        with pytest.raises(streamward.UpstreamError), client.stream():
            pass


def test_a_service_that_is_not_there_is_an_upstream_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with streamward.connect(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(streamward.UpstreamError, match="cannot be reached"):
            client.moderate("hello")
        with pytest.raises(streamward.UpstreamError, match="cannot be reached"), client.stream():
            pass


def test_an_error_without_a_known_code_is_told_by_its_status():
    def found(status: int, body: object) -> streamward.StreamwardError:
        return error_of_response(status, {}, json.dumps(body).encode())

    assert type(found(404, {"error": {"code": "not_found", "message": "no"}})) is streamward.InputError
    assert type(found(500, {"error": {"code": None, "message": "no"}})) is streamward.UpstreamError
    assert type(found(502, "gateway")) is streamward.UpstreamError


@pytest.mark.parametrize("address", ["", "localhost:8000", "ftp://host", "http://", "ws://host"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(streamward.ConfigError):
        streamward.connect(address)


def certificate(folder: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    signed = built.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    (folder / "cert.pem").write_bytes(signed.public_bytes(pem))
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_a_certificate_is_checked_for_calls_and_streams(service, tmp_path):
    cert, key = certificate(tmp_path)
    with served(service.app, ssl_certfile=cert, ssl_keyfile=key) as url:
        address = url.replace("http://", "https://")
        with streamward.connect(address, ssl_context=ssl.create_default_context(cafile=cert)) as client:
            assert client.moderate("hello").decision.action is Action.ALLOW
            with client.stream() as stream:
                assert stream.feed("hello")
        with streamward.connect(address) as client:
            with pytest.raises(streamward.UpstreamError):
                client.moderate("hello")
            with pytest.raises(streamward.UpstreamError), client.stream():
                pass


@pytest.mark.parametrize("method", ["moderate", "amoderate", "stream", "astream"])
def test_a_client_takes_what_a_moderator_takes(method):
    own = list(inspect.signature(getattr(streamward.Client, method)).parameters)
    moderators = list(inspect.signature(getattr(streamward.Moderator, method)).parameters)
    assert own[: len(moderators)] == moderators


def test_a_stream_of_a_client_has_the_methods_of_a_moderators():
    for kind in (streamward.GuardStream, streamward.RemoteStream):
        assert {"decision", "releasable_chars", "close"} <= set(dir(kind))
    for method in ("feed", "feed_reasoning", "finish"):
        for local, remote in (
            (streamward.GuardStream, streamward.RemoteStream),
            (streamward.AsyncGuardStream, streamward.AsyncRemoteStream),
        ):
            assert list(inspect.signature(getattr(local, method)).parameters) == list(
                inspect.signature(getattr(remote, method)).parameters
            )
