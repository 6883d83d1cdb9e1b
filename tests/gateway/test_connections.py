"""Real connections to an upstream that are used again, and die."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from streamward.gateway.config import GatewayLimits, UpstreamConfig
from streamward.gateway.gateway import Gateway
from streamward.gateway.upstream import Upstream
from tests.gateway.scripted import ScriptedGuard, call, chat, describe, document_of

DOCUMENT = document_of("hi")
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(DOCUMENT) + DOCUMENT


class Server:
    """Answers each request with what is said for it: by connection and by request on it, both from 0."""

    def __init__(self, says: Callable[[int, int], bytes], *, resets: bool = False) -> None:
        self.requests: list[tuple[int, int, bytes]] = []
        self._says = says
        self._resets = resets
        self._num_connections = 0
        self._talks: list[asyncio.Task] = []

    async def end(self) -> None:
        await asyncio.gather(*self._talks)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, self._num_connections = self._num_connections, self._num_connections + 1
        task = asyncio.current_task()
        assert task is not None
        self._talks.append(task)
        number, answer = 0, WHOLE
        while answer == WHOLE and (head := await _head(reader)):
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.requests.append((connection, number, await reader.readexactly(length)))
            answer = self._says(connection, number)
            writer.write(answer)
            number += 1
        if self._resets:
            writer.transport.abort()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def statuses(server: Server, *, num: int) -> list[int]:
    """Of so many calls, one after another."""

    async def ask() -> list[int]:
        listener = await asyncio.start_server(server.talk, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        config = UpstreamConfig(base_url=f"http://127.0.0.1:{port}/v1")
        limits = GatewayLimits(overload_wait_s=0)
        gate = Gateway({"up": Upstream("up", config)}, ScriptedGuard().open, limits=limits, describe=describe)
        found = []
        for _ in range(num):
            async with gate.answer(call(chat(stream=False))) as answer:
                found.append(answer.status)
        await gate.aclose()
        await server.end()
        listener.close()
        return found

    return asyncio.run(ask())


@pytest.mark.parametrize("resets", [False, True])
def test_a_connection_that_dies_before_the_next_answer_costs_no_request(resets):
    server = Server(lambda connection, number: WHOLE if number == 0 else b"", resets=resets)
    assert statuses(server, num=4) == [200] * 4
    bodies = {body for _, _, body in server.requests}
    assert len(bodies) == 1  # sent again as it was


def test_a_second_try_is_the_last():
    server = Server(lambda connection, number: WHOLE if (connection, number) == (0, 0) else b"")
    assert statuses(server, num=2) == [200, 502]
    assert [(connection, number) for connection, number, _ in server.requests] == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize("begun", [b"H", WHOLE[:60], b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_answer_that_has_begun_is_not_asked_for_again(begun):
    server = Server(lambda connection, number: WHOLE if number == 0 else begun)
    assert statuses(server, num=2) == [200, 502]
    assert len(server.requests) == 2


def test_a_new_connection_that_dies_is_not_tried_again():
    server = Server(lambda connection, number: b"")
    assert statuses(server, num=1) == [502]
    assert len(server.requests) == 1


def test_a_connection_is_used_again():
    server = Server(lambda connection, number: WHOLE)
    assert statuses(server, num=3) == [200] * 3
    assert [connection for connection, _, _ in server.requests] == [0, 0, 0]
