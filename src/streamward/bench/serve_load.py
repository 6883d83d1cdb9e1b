"""A scripted upstream and many clients of it in one process, so that both ends read the same clock.

HTTP is written by hand: what this process costs is taken from the machine that is measured.
"""

import asyncio
import itertools
import json
import random
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_TEXT = """\
Bread begins with flour, water, salt and a little patience. Mix them in a wide bowl until no dry spots are left, cover
the bowl with a towel and let it rest for half an hour. Then fold the dough over itself four times, turn it and leave it
alone again. After three hours it has grown by half and feels light. Shape it into a ball, put it into a basket and let
it rise once more while the oven warms. Bake it in a closed pot for thirty minutes, take off the lid and wait until the
crust is brown. Let the loaf cool on a rack before you cut it. It keeps for four days in a linen bag. """
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Script:
    """The upstream's answer, one word per event.

    Attributes:
        events: The events, framed as HTTP chunks.
        ends: Characters of the answer up to the end of each event.
        last: The end of the answer, framed.
        interval_s: Between two events.
    """

    events: Sequence[bytes]
    ends: Sequence[int]
    last: bytes
    interval_s: float

    @classmethod
    def of(cls, num_tokens: int, *, rate: float) -> "Script":
        """Write an answer of so many words, at a rate per second."""
        words = list(itertools.islice(itertools.cycle(f"{word} " for word in _TEXT.split()), num_tokens))
        ends = list(itertools.accumulate(map(len, words)))
        last = _event({}, finish_reason="stop") + _frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        return cls([_event({"content": word}) for word in words], ends, last, 1 / rate)


@dataclass(slots=True)
class StreamTally:
    """Counts and times seen by the clients.

    Attributes:
        chunk_s: From the moment the upstream sent a word to the moment all of it had arrived, seconds.
        first_s: From a request to its first text, seconds.
        num_done: Answers that arrived whole.
        num_stopped: Answers that the guard cut.
        num_failed: Requests refused, or answers that broke off.
    """

    chunk_s: "array[float]" = field(default_factory=lambda: array("d"))
    first_s: "array[float]" = field(default_factory=lambda: array("d"))
    num_done: int = 0
    num_stopped: int = 0
    num_failed: int = 0


class ScriptedUpstream:
    """Answers every request with the script, and remembers when it sent what, by the request's `user`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._answering: set[asyncio.Task[None]] = set()
        self.sent_at: dict[str, list[float]] = {}
        """Times at which the words of an answer were sent; its client adds and removes the list."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen on a free port; gives the address up to `/v1`."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.close()
            await asyncio.sleep(0)  # whoever was accepted last begins, so that it can end
            for task in self._answering:
                task.cancel()
            await asyncio.gather(*self._answering)
            await asyncio.sleep(0)  # closes their sockets

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the measurement is over
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        body = json.loads(await reader.readexactly(length))
        sent = self.sent_at.get(body["user"])
        if sent is None:  # the client has gone
            return False
        writer.write(_HEAD)
        start = time.perf_counter()
        for number, event in enumerate(self.script.events):
            await asyncio.sleep(max(0.0, start + number * self.script.interval_s - time.perf_counter()))
            sent.append(time.perf_counter())
            writer.write(event)
            await writer.drain()
        writer.write(self.script.last)
        await writer.drain()
        return True


async def run_clients(
    url: str, upstream: ScriptedUpstream, *, num_streams: int, seconds: float, ramp_s: float
) -> StreamTally:
    """Keep so many streams open for a time, and measure.

    Args:
        url: Where to post chat completions.
        upstream: Behind that address.
        num_streams: Open at the same time.
        seconds: What is measured, after the ramp.
        ramp_s: Clients start at random moments of it; what they see within it does not count.
    """
    start = time.perf_counter()
    counts_from, end = start + ramp_s, start + ramp_s + seconds
    tally = StreamTally()
    moments = random.Random(0)
    clients = [
        _client(url, upstream, tally, name=str(number), delay_s=moments.uniform(0, ramp_s), span=(counts_from, end))
        for number in range(num_streams)
    ]
    await asyncio.gather(*clients)
    await asyncio.sleep(0)  # closes their sockets
    return tally


async def _client(
    url: str, upstream: ScriptedUpstream, tally: StreamTally, *, name: str, delay_s: float, span: tuple[float, float]
) -> None:
    """Ask again and again until the end; an answer that is under way then is not finished."""
    await asyncio.sleep(delay_s)
    for number in itertools.count():
        left = span[1] - time.perf_counter()
        if left <= 0:
            return
        user = f"{name}.{number}"
        upstream.sent_at[user] = []
        try:
            async with asyncio.timeout(left):
                await _ask(url, upstream, tally, user=user, counts_from=span[0])
        except TimeoutError:
            return
        except (OSError, asyncio.IncompleteReadError, ValueError):
            tally.num_failed += 1
            await asyncio.sleep(0.1)
        finally:
            del upstream.sent_at[user]


async def _ask(url: str, upstream: ScriptedUpstream, tally: StreamTally, *, user: str, counts_from: float) -> None:
    parts = urlsplit(url)
    body = json.dumps(
        {
            "model": "scripted",
            "stream": True,
            "user": user,
            "messages": [{"role": "user", "content": "How is bread made?"}],
        }
    ).encode()
    asked_at = time.perf_counter()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(
            f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError("the request was refused")
        await _read_answer(reader, upstream, tally, user=user, asked_at=asked_at, counts_from=counts_from)
    finally:
        writer.transport.abort()


async def _read_answer(
    reader: asyncio.StreamReader,
    upstream: ScriptedUpstream,
    tally: StreamTally,
    *,
    user: str,
    asked_at: float,
    counts_from: float,
) -> None:
    ends, num_words, num_chars = upstream.script.ends, 0, 0
    async for data in _events(reader):
        now = time.perf_counter()
        if data == b"[DONE]":
            tally.num_done += 1
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise ValueError("the answer broke off")
        for choice in chunk["choices"]:
            num_chars += len(choice["delta"].get("content") or "")
            if choice["finish_reason"] == "content_filter":
                tally.num_stopped += 1
                return
        while num_words < len(ends) and ends[num_words] <= num_chars:
            if now >= counts_from:
                tally.chunk_s.append(now - upstream.sent_at[user][num_words])
                if num_words == 0:
                    tally.first_s.append(now - asked_at)
            num_words += 1
    raise ValueError("the answer broke off")


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the data of each event of a chunked answer."""
    text = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        text += (await reader.readexactly(size + 2))[:-2]
        while (end := text.find(b"\n\n")) >= 0:
            line, text = text[:end], text[end + 2 :]
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _event(delta: dict[str, str], *, finish_reason: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }
    return _frame(f"data: {json.dumps(chunk)}\n\n".encode())


def _frame(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
