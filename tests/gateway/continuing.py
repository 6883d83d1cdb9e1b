"""Upstreams that continue what they are given, or begin anew, and say what they are told."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import httpx

from streamward.ladder import LadderStep, ReleasePolicy
from streamward.policy import Policy
from tests.gateway.scripted import DONE, delta, event


class Turns(httpx.AsyncBaseTransport):
    """Answers one request after another with its texts, cut as told; the last one again and again.

    An answer that is streamed has one event per piece and states its usage if it is asked to; a piece is a token.
    """

    def __init__(self, *texts: str, sizes: Sequence[int] = (1,), repeats: bool = False, **first: object) -> None:
        self.bodies: list[dict] = []
        self.paths: list[str] = []
        self.num_open = 0
        self.num_told: list[int] = []  # pieces, by request
        self.last_usage: dict[int, dict] = {}  # by request
        self.gate: asyncio.Event | None = None
        self.gate_at = 0  # request that waits after its first piece
        self.permits: asyncio.Semaphore | None = None  # one for each piece of the first request
        self.status: dict[int, int] = {}  # by request
        self._texts = texts
        self._sizes = sizes
        self._repeats = repeats

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        turn = len(self.bodies)
        self.bodies.append(body)
        self.paths.append(request.url.path)
        self.num_told.append(0)
        status = self.status.get(turn, 200)
        if status != 200:
            return httpx.Response(status, json={"error": {"message": "no"}})
        texts = [self._texts[min(turn, len(self._texts) - 1)]] * (body.get("n") or 1)
        if self._repeats and turn:
            texts = [body["messages"][-1]["content"] + texts[0]]
        if not body.get("stream") and "input" in body:
            events = [each async for each in self.responses(turn, texts[0])]
            return httpx.Response(200, json=json.loads(events[-1].partition(b"data: ")[2])["response"])
        if not body.get("stream"):
            return httpx.Response(200, json=self._whole(texts))
        self.num_open += 1
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Told(self, turn, texts, body))

    def _whole(self, texts: Sequence[str]) -> dict:
        usage = {"prompt_tokens": 7, "completion_tokens": sum(map(len, texts)), "total_tokens": 0}
        self.last_usage[len(self.bodies) - 1] = usage
        choices = [
            {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for index, text in enumerate(texts)
        ]
        return {
            "id": "c-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": choices,
            "usage": usage,
        }

    def pieces(self, text: str) -> list[str]:
        found, start, turn = [], 0, 0
        while start < len(text):
            size = self._sizes[turn % len(self._sizes)]
            found.append(text[start : start + size])
            start, turn = start + size, turn + 1
        return found

    def _told(self, turn: int, data: bytes, body: dict) -> bytes:
        if not (body.get("stream_options") or {}).get("continuous_usage_stats"):
            return data
        usage = {"prompt_tokens": 7, "completion_tokens": self.num_told[turn], "total_tokens": 0}
        self.last_usage[turn] = usage
        return event({**json.loads(data.removeprefix(b"data: ")), "usage": usage})

    async def responses(self, turn: int, text: str) -> AsyncIterator[bytes]:
        at = {"output_index": 0, "item_id": "m-1", "content_index": 0}
        item = {"id": "m-1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        begun = {"id": "r-1", "object": "response", "status": "in_progress", "output": []}
        yield _named({"type": "response.created", "response": begun})
        yield _named({"type": "response.output_item.added", "output_index": 0, "item": item})
        part = {"type": "output_text", "text": "", "annotations": []}
        yield _named({"type": "response.content_part.added", **at, "part": part})
        for piece in self.pieces(text):
            self.num_told[turn] += 1
            yield _named({"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []})
        yield _named({"type": "response.output_text.done", **at, "text": text})
        done = {**item, "status": "completed", "content": [{**part, "text": text}]}
        yield _named({"type": "response.output_item.done", "output_index": 0, "item": done})
        usage = {"input_tokens": 7, "output_tokens": self.num_told[turn], "total_tokens": 0}
        ended = {**begun, "status": "completed", "output": [done], "usage": usage}
        yield _named({"type": "response.completed", "response": ended})

    async def events(self, turn: int, texts: Sequence[str], body: dict) -> AsyncIterator[bytes]:
        if "input" in body:
            async for each in self.responses(turn, texts[0]):
                yield each
            return
        is_chat = "messages" in body
        yield delta(0, role="assistant", content="") if is_chat else b": hello\n\n"
        for index, text in enumerate(texts):
            for piece in self.pieces(text):
                if self.permits is not None and not turn:
                    await self.permits.acquire()
                self.num_told[turn] += 1
                yield self._told(turn, delta(index, content=piece) if is_chat else _text(index, piece), body)
                if self.gate is not None and turn == self.gate_at:
                    await self.gate.wait()
        for index in range(len(texts)):
            yield delta(index, reason="stop") if is_chat else _text(index, "", reason="stop")
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 7, "completion_tokens": self.num_told[turn], "total_tokens": 0}
            self.last_usage[turn] = usage
            yield event({"id": "c-1", "choices": [], "usage": usage})
        yield DONE


def _named(body: dict) -> bytes:
    return f"event: {body['type']}\n".encode() + event(body)


def _text(index: int, text: str, *, reason: str | None = None) -> bytes:
    choice = {"index": index, "text": text, "finish_reason": reason, "logprobs": None}
    return event({"id": "t-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]})


class _Told(httpx.AsyncByteStream):
    def __init__(self, turns: Turns, turn: int, texts: Sequence[str], body: dict) -> None:
        self._turns, self._turn, self._texts, self._body = turns, turn, texts, body
        self._is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for each in self._turns.events(self._turn, self._texts, self._body):
            yield each
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._turns.num_open -= 1


def intervening(*steps: LadderStep, hold: int = 4, **fields: object) -> Policy:
    release = ReleasePolicy(mode="intervene", hold_tokens=hold, ladder=steps)
    return Policy.load("strict").model_copy(update={"release": release, **fields})
