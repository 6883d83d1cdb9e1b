"""The load generator of bench-serve: what it measures is what happens."""

import asyncio
import json

import pytest

from streamward.bench.serve_load import Script, ScriptedUpstream, run_clients

RATE = 100.0


async def load(url_of, *, num_streams=2, seconds=0.5, ramp_s=0.1, num_tokens=10):
    upstream = ScriptedUpstream(Script.of(num_tokens, rate=RATE))
    async with upstream.serving() as base_url, url_of(f"{base_url}/chat/completions") as url:
        tally = await run_clients(url, upstream, num_streams=num_streams, seconds=seconds, ramp_s=ramp_s)
    assert upstream.sent_at == {}
    return tally


class Direct:
    """No gateway."""

    def __init__(self, url):
        self.url = url

    async def __aenter__(self):
        return self.url

    async def __aexit__(self, *failure):
        pass


class Relay:
    """A gateway that treats every event in some way; None closes the connection."""

    def __init__(self, treat):
        self.treat = treat
        self.tasks = []

    def __call__(self, url):
        self.port = int(url.split(":")[2].split("/")[0])
        return self

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1/chat/completions"

    async def __aexit__(self, *failure):
        self.server.close()
        await asyncio.sleep(0)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def accept(self, reader, writer):
        self.tasks.append(asyncio.create_task(self.relay(reader, writer)))

    async def relay(self, reader, writer):
        writers = [writer]
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.port)
            writers.append(upstream_writer)
            upstream_writer.write(await reader.readuntil(b"}]}"))
            writer.write(await upstream_reader.readuntil(b"\r\n\r\n"))
            while (treated := await self.treat(await upstream_reader.readuntil(b"\n\n\r\n"))) is not None:
                writer.write(treated)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.transport.abort()


def test_past_any_gateway_words_arrive_at_once_and_at_their_rate():
    tally = asyncio.run(load(Direct, num_streams=3))
    assert tally.num_failed == tally.num_stopped == 0
    assert tally.num_done >= 3
    assert 50 <= len(tally.chunk_s) <= 200  # 3 streams at 100 a second for half a second, on a busy machine
    assert min(tally.chunk_s) < 0.02


def test_what_a_gateway_waits_is_measured():
    async def wait(frame):
        await asyncio.sleep(0.05)
        return frame

    tally = asyncio.run(load(Relay(wait)))
    assert min(tally.chunk_s) >= 0.045
    assert min(tally.first_s) >= 0.045


def test_a_cut_is_counted_as_one():
    async def cut(frame):
        chunk = {"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}
        data = f"data: {json.dumps(chunk)}\n\n".encode()
        return f"{len(data):x}\r\n".encode() + data + b"\r\n"

    tally = asyncio.run(load(Relay(cut)))
    assert tally.num_stopped > 0
    assert tally.num_done == 0


def test_an_answer_that_breaks_off_is_counted_as_failed():
    async def close(frame):
        return None

    tally = asyncio.run(load(Relay(close)))
    assert tally.num_failed > 0
    assert tally.num_done == 0


@pytest.mark.parametrize("num_tokens", [1, 7, 300])
def test_a_script_has_a_word_an_event(num_tokens):
    script = Script.of(num_tokens, rate=RATE)
    assert len(script.events) == len(script.ends) == num_tokens
    words = [
        json.loads(event.split(b"data: ")[1].split(b"\n")[0])["choices"][0]["delta"]["content"]
        for event in script.events
    ]
    assert len("".join(words)) == script.ends[-1]
