"""`/ready` knows whether the guard works, and which upstreams take no connections."""

import asyncio
import socket
import threading
from contextlib import closing
from dataclasses import dataclass

import httpx
import pytest

from streamward.errors import AuditError, ConfigError
from streamward.server.audit import AuditLog
from streamward.server.reachability import Reachability
from tests.moderation.guards import stream_guard
from tests.moderation.test_cancellation import LONG, TIMEOUT_S
from tests.server.services import Service, open_service, served, settings
from tests.server.test_disconnects import slow_service, until


def ready(url: str) -> tuple[int, str]:
    answer = httpx.get(f"{url}/ready", timeout=TIMEOUT_S)
    return answer.status_code, " ".join(answer.json()["problems"])


def test_a_guard_whose_engine_keeps_failing_makes_the_service_unready_and_is_answered_at_once(tmp_path) -> None:
    guard = stream_guard()

    def failing() -> None:
        raise MemoryError

    with open_service(tmp_path, guard=guard) as service, served(service.app) as url:
        guard.engine.step = failing  # type: ignore[method-assign, assignment]
        for _ in range(3):
            found = httpx.post(f"{url}/v1/guard", json={"prompt": "x"}, timeout=TIMEOUT_S)
            assert found.json()["decision"]["action"] == "block"
        status, problems = ready(url)
        assert (status, "failed several times" in problems) == (503, True)
        refused = httpx.post(f"{url}/v1/guard", json={"prompt": "x"}, timeout=TIMEOUT_S)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "guard_failed")
        assert refused.headers["retry-after"]
        assert "streamward_guard_works 0.0" in httpx.get(f"{url}/metrics").text


def test_a_step_that_hangs_makes_the_service_unready(tmp_path) -> None:
    with slow_service(tmp_path, limits={"guard_stall_s": 0.05}) as (_, steps, url):
        steps.gate.clear()
        asking = threading.Thread(target=lambda: httpx.post(f"{url}/v1/guard", json={"prompt": "x"}, timeout=60))
        asking.start()
        assert steps.begun.wait(TIMEOUT_S)
        until(lambda: ready(url)[0] == 503)
        assert "at one step" in ready(url)[1]
        steps.gate.set()
        asking.join()
        until(lambda: ready(url)[0] == 200)


@dataclass
class Clock:
    """Time that a test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_long_read_that_makes_progress_is_no_stall_and_one_that_does_not_is() -> None:
    guard, clock = stream_guard(max_batch_tokens=64), Clock()
    driver = guard._scorer
    driver._clock = clock  # type: ignore[attr-defined]
    step, seen = guard.engine.step, []

    def slow() -> object:
        seen.append(driver.health())
        clock.now += 20.0
        return step()

    guard.engine.step = slow  # type: ignore[method-assign, assignment]
    stream = driver.open()
    driver.score(stream, [1] * 300, head=None)
    assert len(seen) == 5
    assert max(each.wait_s for each in seen) <= 20.0
    driver.close()


def test_an_upstream_that_takes_no_connections_is_a_warning_that_names_it(tmp_path) -> None:
    with closing(socket.socket()) as free, closing(socket.socket()) as listening:
        free.bind(("127.0.0.1", 0))
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        urls = {
            name: f"http://127.0.0.1:{each.getsockname()[1]}/v1" for name, each in (("down", free), ("up", listening))
        }
        upstreams = {name: {"base_url": url} for name, url in urls.items()}
        with open_service(tmp_path, upstreams=upstreams) as service:
            answer = service.get("/ready")
            assert answer.status_code == 200
            assert answer.json()["warnings"] == ["the upstream down takes no connections"]
            assert service.metric("streamward_upstream_reachable", upstream="down") == 0
            exposition = service.get("/metrics").text
            assert 'streamward_upstream_reachable{upstream="up"} 1.0' in exposition
            assert 'streamward_upstream_reachable{upstream="down"} 0.0' in exposition


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999/v1", "http://a..b/v1", "http://127.0.0.1:0/v1", "http://a:b/v1"]
)
def test_an_upstream_that_no_server_can_be_at_is_refused_before_the_start(tmp_path, url: str) -> None:
    with pytest.raises(ConfigError, match="port"):
        settings(tmp_path, upstreams={"up": {"base_url": url}})


def test_an_address_that_no_server_can_have_is_unreachable() -> None:
    reachability = Reachability({"port": "http://127.0.0.1:99999/v1", "name": "http://a..b/v1"})
    assert asyncio.run(reachability.unreachable()) == ["port", "name"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_thread_that_logs_survives_whatever_is_raised_in_it(service: Service, monkeypatch, error) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "_write", broken)
        refused = service.post("/v1/guard", {"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, AuditError.code)
        assert service.get("/ready").status_code == 503
    assert service.post("/v1/guard", {"prompt": "x"}).status_code == 200
    assert service.get("/ready").status_code == 200


def test_a_database_that_hangs_makes_requests_fail_in_time_and_the_service_unready(tmp_path, monkeypatch) -> None:
    gate = threading.Event()
    with open_service(tmp_path, audit={"timeout_s": 0.05}) as service:
        write = service.state.audit._write
        monkeypatch.setattr(service.state.audit, "_write", lambda batch: (gate.wait(TIMEOUT_S), write(batch)))
        refused = service.post("/v1/guard", {"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, AuditError.code)
        assert service.get("/ready").status_code == 503
        gate.set()
        until(lambda: service.get("/ready").status_code == 200)


def test_a_closed_log_does_not_wait_longer_than_it_is_told(service: Service, monkeypatch) -> None:
    begun, gate = threading.Event(), threading.Event()

    def held(*_: object) -> None:
        begun.set()
        gate.wait(TIMEOUT_S)

    monkeypatch.setattr(service.state.audit, "_write", held)

    async def used(client: httpx.AsyncClient) -> bool:
        asking = asyncio.ensure_future(client.post("/v1/guard", json={"prompt": LONG[:50]}))
        await asyncio.to_thread(begun.wait, TIMEOUT_S)
        is_written = service.state.audit.close(timeout_s=0.01)
        gate.set()
        asking.cancel()
        return is_written

    assert service.run(used) is False
    assert service.state.audit.close() is True
