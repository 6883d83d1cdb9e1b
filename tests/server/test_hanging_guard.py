"""A guard that hangs or breaks, and a log that is slow: every caller is answered, and each decision is logged once."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from streamward.decisions import ALLOWED
from streamward.errors import OverloadedError, StreamwardError, UpstreamError
from streamward.schema import Result
from streamward.server import app as app_module
from streamward.server.litellm import _close_call
from streamward.server.litellm_calls import LiteLLMCall
from streamward.server.pieces import with_grace
from streamward.server.stream_socket import Connection
from tests.server.services import Service, open_service
from tests.server.test_streams import opened, rows

LITELLM = "/beta/litellm_basic_guardrail_api"


class Guard:
    """A guard, and its only stream, whose named calls hang until they are freed, or raise."""

    prompt = None
    decision = ALLOWED
    releasable_chars = 0
    findings = ()

    def masked(self, start: int, end: int) -> None: ...

    def __init__(self, *, hangs: str = "", error: Exception | None = None) -> None:
        self.freed = threading.Event()
        self._hangs = hangs
        self._error = error

    def _work(self, name: str) -> None:
        if name == self._hangs:
            self.freed.wait(30)
        if name == "open_stream" and self._error is not None:
            raise self._error

    def open_stream(self, conversation: object, policy: object, *, max_chars: int) -> "Guard":
        self._work("open_stream")
        return self

    def judge(self, conversation: object, policy: object) -> Result:
        self._work("judge")
        return Result(ALLOWED)

    def feed(self, piece: object) -> list[Any]:
        self._work("feed")
        return []

    def finish(self) -> Result:
        self._work("finish")
        return Result(ALLOWED)

    def so_far(self) -> Result:
        return Result(ALLOWED)

    def close(self) -> None: ...


def hanging(folder: Any, name: str) -> Iterator[TestClient]:
    guard = Guard(hangs=name)
    with (
        open_service(folder, guard=guard, limits={"judge_timeout_s": 0.1}) as service,  # type: ignore[arg-type]
        TestClient(service.app, base_url="http://localhost") as client,
    ):
        yield client
        guard.freed.set()


def test_a_piece_that_is_never_judged_ends_the_stream_as_a_failed_guard_does(tmp_path) -> None:
    for client in hanging(tmp_path, "feed"):
        answer = client.post(f"/v1/streams/{opened(client)}/append", json={"text": "x"}).json()
        assert (answer["is_failed"], answer["decision"]["error"]) == (True, "guard_failed")


def test_an_end_that_is_never_judged_is_decided_as_a_failed_guard_is(tmp_path) -> None:
    for client in hanging(tmp_path, "finish"):
        closed = client.post(f"/v1/streams/{opened(client)}/close").json()
        assert (closed["decision"]["action"], closed["decision"]["error"]) == ("block", "guard_failed")


def test_an_opening_that_hangs_is_refused(tmp_path) -> None:
    for client in hanging(tmp_path, "open_stream"):
        answer = client.post("/v1/streams", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guard_failed")


def test_an_answer_of_litellm_that_is_never_judged_is_blocked(tmp_path) -> None:
    for client in hanging(tmp_path, "judge"):
        answer = client.post(LITELLM, json={"input_type": "response", "texts": ["x"], "litellm_call_id": "a"})
        assert answer.json()["action"] == "BLOCKED"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(RuntimeError("swordfish"), 503, "guard_failed"), (UpstreamError("it is down"), 502, "upstream_failed")],
)
def test_a_stream_that_cannot_be_opened_is_answered_with_what_failed(tmp_path, error, status, code) -> None:
    with open_service(tmp_path, guard=Guard(error=error)) as service:  # type: ignore[arg-type]
        answer = service.post("/v1/streams", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("how", ["close", "give_up"])
def test_a_stream_whose_close_is_repeated_while_the_log_is_slow_is_logged_once(
    service: Service, monkeypatch, how
) -> None:
    record = service.state.audit.record

    async def used(client: Any) -> None:
        is_logging, may_go_on = asyncio.Event(), asyncio.Event()

        async def slow(*arguments: Any) -> None:
            is_logging.set()
            await may_go_on.wait()
            await record(*arguments)

        monkeypatch.setattr(service.state.audit, "record", slow)
        stream = (await client.post("/v1/streams", json={})).json()["stream"]
        session = service.app.state.streams.get(stream, tenant="local")
        first = asyncio.ensure_future(session.finish())
        await is_logging.wait()
        first.cancel()
        await asyncio.wait([first])
        again = asyncio.ensure_future(session.finish() if how == "close" else session.give_up("stopped"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not again.done()
        may_go_on.set()
        await again
        assert session.is_over

    service.run(used)
    assert len(rows(service)) == 1


def test_an_answer_whose_end_breaks_keeps_no_other_from_being_ended(service: Service, caplog) -> None:
    ended: list[str] = []

    class Text:
        text = "x"

        def __init__(self, error: Exception | None = None) -> None:
            self._error = error

        async def finish(self) -> None:
            if self._error is not None:
                raise self._error
            ended.append("well")

    call = LiteLLMCall(texts={"text 0": Text(RuntimeError("swordfish")), "text 1": Text()})  # type: ignore[dict-item]
    asyncio.run(_close_call(service.state, call))
    assert ended == ["well"]
    assert "swordfish" not in caplog.text


def test_background_work_goes_on_after_an_error_of_any_kind() -> None:
    async def used() -> None:
        tries: asyncio.Queue[None] = asyncio.Queue()

        async def work() -> None:
            tries.put_nowait(None)
            raise RuntimeError

        task = asyncio.create_task(app_module._repeat(work, every_s=0))
        async with asyncio.timeout(10):
            await tries.get()
            await tries.get()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(used())


def test_a_websocket_whose_client_vanished_ends_without_an_error(service: Service) -> None:
    async def gone(*_: object) -> None:
        raise RuntimeError("it is closed")

    socket = SimpleNamespace(app=service.app, state=SimpleNamespace(request_id="r"), send_text=gone, close=gone)
    error: StreamwardError = OverloadedError("full")
    asyncio.run(Connection(socket, None)._end(error))  # type: ignore[arg-type]


def test_work_that_is_cancelled_twice_is_not_left_behind() -> None:
    async def used() -> None:
        begun, work_is_over = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                work_is_over.set()

        task = asyncio.create_task(with_grace(work()))
        await begun.wait()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.wait([task])
        async with asyncio.timeout(10):
            await work_is_over.wait()

    asyncio.run(used())


def test_callers_without_a_key_behind_a_proxy_are_told_apart_by_their_own_address(tmp_path, monkeypatch) -> None:
    with open_service(tmp_path, listen={"trusted_proxies": ["127.0.0.1/32"]}) as service:
        owners: list[str | None] = []
        with_owner = type(service.state.moderator).with_owner

        def noted(moderator: Any, owner: str | None) -> Any:
            owners.append(owner)
            return with_owner(moderator, owner)

        monkeypatch.setattr(type(service.state.moderator), "with_owner", noted)
        for address in ("192.0.2.1", "192.0.2.2"):
            service.post("/v1/guard", {"prompt": "x"}, headers={"X-Forwarded-For": address})
    assert owners == ["peer 192.0.2.1", "peer 192.0.2.2"]
