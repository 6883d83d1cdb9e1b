"""A client that leaves ends its work, whichever door it came through."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect

from streamward.moderation.stream_guard import StreamGuard
from streamward.server.proxy import open_gateway
from tests.gateway.scripted import spoken
from tests.moderation.guards import stream_guard
from tests.moderation.test_cancellation import LONG, TIMEOUT_S, Steps
from tests.server.marked_guard import marked_guard
from tests.server.services import Service, open_service, served
from tests.server.test_proxy import UPSTREAMS

LITELLM = "/beta/litellm_basic_guardrail_api"
CHAT = {"messages": [{"role": "user", "content": LONG}]}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {  # Any: JSON values
    "moderations": ("/v1/moderations", {"input": [LONG, LONG, LONG]}),
    "guard": ("/v1/guard", {"prompt": "hello", "response": LONG}),
    "chat": ("/v1/chat/completions", CHAT),
    "litellm prompt": (LITELLM, {"input_type": "request", "texts": [LONG], "litellm_call_id": "a"}),
    "litellm answer": (LITELLM, {"input_type": "response", "texts": [LONG], "litellm_call_id": "a"}),
    "gateway": ("/up/v1/chat/completions", {"model": "m", **CHAT}),
    "streams": ("/v1/streams", {"prompt": LONG}),
}


def until(is_true: Callable[[], bool]) -> None:
    poll = threading.Event()
    for _ in range(TIMEOUT_S * 100):
        if is_true():
            return
        poll.wait(0.01)
    raise AssertionError("it never came true")


@contextmanager
def slow_service(
    folder: Path, *, guard: StreamGuard | None = None, **changes: Any
) -> Iterator[tuple[Service, Steps, str]]:  # Any: tables of settings
    guard = guard or stream_guard(max_batch_tokens=64)
    with open_service(folder, guard=guard, upstreams=UPSTREAMS, **changes) as service:
        gateway = open_gateway(service.state, transports={"up": spoken("hi"), "other": spoken("hi")})
        service.app.state.gateway = service.app.state.gateway._replace(gateway=gateway)
        steps = Steps(service.state.moderator)
        with served(service.app) as url:
            yield service, steps, url
        steps.gate.set()


def send(url: str, path: str, body: dict[str, Any], *, key: str = "") -> socket.socket:  # Any: JSON values
    where, data = urlsplit(url), json.dumps(body).encode()
    client = socket.create_connection((where.hostname or "", where.port or 0))
    headers = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(data))}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    head = "\r\n".join([f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())])
    client.sendall(head.encode() + b"\r\n\r\n" + data)
    return client


def assert_work_ends(steps: Steps) -> None:
    steps.num_made = 0
    steps.gate.set()
    until(lambda: not steps.engine.num_queued_tokens and not steps.engine.num_streams)
    assert steps.num_made <= 2


@pytest.mark.parametrize("name", REQUESTS)
def test_a_client_that_leaves_ends_its_work(tmp_path, name: str) -> None:
    with slow_service(tmp_path) as (service, steps, url):
        steps.gate.clear()
        with send(url, *REQUESTS[name]):
            assert steps.begun.wait(TIMEOUT_S)
            until(lambda: service.state.admission.num_in_flight == 1)
        until(lambda: service.state.admission.num_in_flight == 0)  # though a step is still being made
        assert_work_ends(steps)


def test_a_request_that_was_answered_503_ends_its_work(tmp_path) -> None:
    with slow_service(tmp_path, limits={"judge_timeout_s": 0.1}) as (_, steps, url):
        steps.gate.clear()
        assert httpx.post(f"{url}/v1/moderations", json={"input": [LONG, LONG]}, timeout=TIMEOUT_S).status_code == 503
        assert_work_ends(steps)


def test_a_websocket_that_breaks_ends_the_work_and_its_stream_goes_on(tmp_path) -> None:
    with slow_service(tmp_path) as (service, steps, url):
        address = url.replace("http://", "ws://") + "/v1/streams"
        with connect(address) as first:
            first.send(json.dumps({"type": "open"}))
            stream = json.loads(first.recv(TIMEOUT_S))["stream"]
            steps.begun.clear()
            steps.gate.clear()
            first.send(json.dumps({"type": "append", "stream": stream, "text": LONG}))
            assert steps.begun.wait(TIMEOUT_S)
        session = service.app.state.streams.get(stream, tenant="local")
        until(lambda: not session.is_busy and session.next_seq == 1)
        steps.num_made = 0
        steps.gate.set()
        until(lambda: not steps.engine.num_queued_tokens)
        assert steps.num_made <= 2
        with connect(address) as second:
            second.send(json.dumps({"type": "resume", "stream": stream, "after": -1}))
            resumed = json.loads(second.recv(TIMEOUT_S))
            assert resumed["next_seq"] == 1
            assert [missed["events"] for missed in resumed["missed"]] == [[]]
            second.send(json.dumps({"type": "append", "stream": stream, "text": "", "seq": 1}))
            until(lambda: steps.num_made > 3)  # what was taken in is judged now


def test_a_broken_stream_that_nobody_resumes_is_not_judged_and_not_called_safe(tmp_path) -> None:
    with slow_service(tmp_path, streams={"resume_s": 0.0}) as (service, steps, url):
        answer = httpx.post(f"{url}/v1/streams", json={}, timeout=TIMEOUT_S).json()
        steps.begun.clear()
        steps.gate.clear()
        with send(url, f"/v1/streams/{answer['stream']}/append", {"text": LONG}):
            assert steps.begun.wait(TIMEOUT_S)
        session = service.app.state.streams.get(answer["stream"], tenant="local")
        until(lambda: not session.is_busy)
        session.attach(service)
        session.detach(service)
        until(lambda: service.metric("streamward_streams_total", outcome="expired") == 1)
        assert_work_ends(steps)
        with service.state.engine.connect() as connection:
            (row,) = connection.exec_driver_sql("select action, error from decisions").all()
        assert tuple(row) == ("block", "cancelled")


def test_a_litellm_answer_whose_judging_was_cut_off_is_judged_whole_the_next_time(tmp_path) -> None:
    with slow_service(tmp_path, guard=marked_guard()) as (service, steps, url):
        asked = {"input_type": "response", "litellm_call_id": "a"}
        grown = "The cat sat. " * 40
        httpx.post(url + LITELLM, json={**asked, "texts": ["The cat"]}, timeout=TIMEOUT_S)
        steps.begun.clear()
        steps.gate.clear()
        with send(url, LITELLM, {**asked, "texts": [grown]}):
            assert steps.begun.wait(TIMEOUT_S)
        until(lambda: service.state.admission.num_in_flight == 0)
        steps.gate.set()
        found = httpx.post(url + LITELLM, json={**asked, "texts": [grown]}, timeout=TIMEOUT_S).json()
        alone = httpx.post(url + LITELLM, json={"input_type": "response", "texts": [grown]}, timeout=TIMEOUT_S).json()
        assert found == alone


def test_the_work_of_one_key_leaves_threads_and_steps_to_another(tmp_path) -> None:
    with slow_service(tmp_path, auth={"required": True}) as (service, steps, url):
        many, few = service.key(), service.key()
        hog = threading.Thread(
            target=lambda: httpx.post(
                f"{url}/v1/moderations", json={"input": [LONG[:20_000]] * 50}, headers=many, timeout=60
            )
        )
        hog.start()
        until(lambda: steps.num_made > 5)
        for _ in range(5):
            before = steps.num_made
            answer = httpx.post(f"{url}/v1/guard", json={"prompt": "hello"}, headers=few, timeout=TIMEOUT_S)
            assert answer.status_code == 200
            assert steps.num_made - before < 40
        service.state.moderator.close()
        hog.join(TIMEOUT_S)
