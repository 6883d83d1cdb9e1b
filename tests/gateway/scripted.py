"""A guard that flags every `#`, over the real streams and policies, and upstreams that say what they are told."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import httpx

from streamward.decisions import decide
from streamward.gateway.call_record import CallRecord, GatewayCall, GatewayResponse
from streamward.gateway.config import GatewayLimits, UpstreamConfig
from streamward.gateway.gateway import Gateway
from streamward.gateway.guard import JudgedStream, OpenGuard
from streamward.gateway.upstream import Upstream
from streamward.moderation.async_stream import AsyncGuardStream
from streamward.moderation.coroutines import without_waiting
from streamward.moderation.guard_stream import GuardStream, ReasoningTokens
from streamward.policy import Policy
from streamward.schema import Category, FiredRule, Message, RiskLevel, Role, Side, SideResult, Span, Verdict
from streamward.text_stream import TextStream
from tests.moderation.guards import guard_tokenizer

TOKENIZER = guard_tokenizer()
STRICT = Policy.load("strict")
BAD_PROMPT = "#prompt#"
CONTENT = (0, "content")
"""Field of the text of the first choice, as in `texts_in`."""
_POOL = ThreadPoolExecutor(2, thread_name_prefix="scripted-guard")
_SAFE = {RiskLevel.SAFE: 1.0, RiskLevel.CONTROVERSIAL: 0.0, RiskLevel.UNSAFE: 0.0}
_UNSAFE = {RiskLevel.SAFE: 0.0, RiskLevel.CONTROVERSIAL: 0.0, RiskLevel.UNSAFE: 1.0}


def verdict(is_bad: bool, position: int = 0, span: Span | None = None) -> Verdict:
    if is_bad:
        return Verdict(position, RiskLevel.UNSAFE, _UNSAFE, Category.VIOLENT, span)
    return Verdict(position, RiskLevel.SAFE, _SAFE, None, span)


class HashJudge:
    """Every `#`, or another mark, is a token of its own, and unsafe. Stands for a `ResponseJudge`."""

    num_windows = 1
    holds_thread = False

    def __init__(self, fails_at: int | None = None, error: Exception | None = None, mark: bytes = b"#") -> None:
        self._num_tokens = 0
        self._mark = mark
        self._fails_at = fails_at
        self._error = error

    def drop_context(self, num_tokens: int) -> None:
        pass

    def short_text_rules(self) -> tuple[FiredRule, ...]:
        return ()

    async def replace(self, keep: int, new_ids: Sequence[int], *, spans: Sequence[Span | None]) -> list[Verdict]:
        self._num_tokens = keep + len(new_ids)
        if self._error is not None and self._fails_at is not None and self._num_tokens >= self._fails_at:
            raise self._error
        return [
            verdict(self._mark in TOKENIZER.token_bytes(token_id), keep + index, span)
            for index, (token_id, span) in enumerate(zip(new_ids, spans, strict=True))
        ]


class ScriptedGuard:
    """Opens streams; counts those that are open."""

    def __init__(
        self,
        *,
        fails_at: int | None = None,
        error: Exception | None = None,
        opens: int | None = None,
        mark: bytes = b"#",
    ) -> None:
        self.num_open = 0
        self.num_opened = 0
        self.contexts: list[list[tuple[str, str]]] = []
        self.opening_error: Exception | None = None
        self._judge = (fails_at, error, mark)
        self._opens = opens

    def open(self, messages: Sequence[Message], policy: Policy) -> AbstractAsyncContextManager[JudgedStream]:
        opening = partial(self._stream, messages, policy)
        return AsyncGuardStream(partial(without_waiting, opening), executor=_POOL)

    def _stream(self, messages: Sequence[Message], policy: Policy) -> GuardStream:
        if self.opening_error is not None and (self._opens is None or self.num_opened >= self._opens):
            raise self.opening_error
        self.contexts.append([(turn.role.value, turn.content) for turn in messages])
        self.num_open += 1
        self.num_opened += 1
        has_prompt = bool(messages) and messages[-1].role is Role.USER
        found = verdict(has_prompt and BAD_PROMPT in messages[-1].content)
        judgement = SideResult(found.risk_level, found.category, found.probabilities, verdicts=(found,))
        frame = TOKENIZER.reasoning_frame()
        return GuardStream(
            TextStream(TOKENIZER),
            HashJudge(*self._judge),  # type: ignore[arg-type]  # as it is used
            policy=policy,
            prompt=judgement if has_prompt else None,
            prompt_decision=decide(policy, Side.PROMPT, found) if has_prompt else None,
            reasoning=ReasoningTokens(frame, 0),
            max_chars=100_000,
            on_close=self._close,
        )

    def _close(self) -> None:
        self.num_open -= 1


class Script(httpx.AsyncBaseTransport):
    """Answers every request with the same bytes, cut as told."""

    def __init__(
        self,
        *chunks: bytes,
        status: int = 200,
        content_type: str = "text/event-stream",
        headers: dict[str, Any] | None = None,
        error: Exception | None = None,
    ) -> None:
        self.requests: list[httpx.Request] = []
        self.is_closed = False
        self.num_sent = 0
        self.gate: asyncio.Event | None = None
        self.gate_at = 0
        self._chunks = chunks
        self._status = status
        self._headers = {"content-type": content_type, **(headers or {})}
        self._error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self._error is not None and not self._chunks:
            raise self._error
        return httpx.Response(self._status, headers=self._headers, stream=_Body(self))

    async def chunks(self) -> AsyncIterator[bytes]:
        for index, chunk in enumerate(self._chunks):
            if self.gate is not None and index == self.gate_at:
                await self.gate.wait()
            self.num_sent += 1
            yield chunk
        if self._error is not None:
            raise self._error


class _Body(httpx.AsyncByteStream):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._script.chunks():
            yield chunk

    async def aclose(self) -> None:
        self._script.is_closed = True


class ObservedGateway(Gateway):
    """Tells the same observer of every call."""

    observer: "Notebook | None" = None

    def answer(self, call, *, observer=None):
        return super().answer(call, observer=observer or self.observer)


class Notebook:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.outcomes: list[CallRecord] = []
        self.error: Exception | None = None

    def judged(self, name, text, events) -> None:
        pass

    def truncated(self, name, num_chars, num_tokens) -> None:
        pass

    async def finished(self, outcome: CallRecord) -> None:
        self.outcomes.append(outcome)
        if self.error is not None:
            raise self.error


def describe(judgement: SideResult) -> dict[str, object]:
    return {"flagged": judgement.risk_level is not RiskLevel.SAFE, "categories": {}, "category_scores": {}}


def gateway(
    script: Script,
    *,
    guard: ScriptedGuard | None = None,
    open_guard: OpenGuard | None = None,
    observer: Notebook | None = None,
    limits: GatewayLimits | None = None,
    **config,
) -> Gateway:
    settings = UpstreamConfig.parse({"base_url": "http://upstream.test/v1", **config}, source="test")
    gate = ObservedGateway(
        {"up": Upstream("up", settings, transport=script)},
        open_guard or (guard or ScriptedGuard()).open,
        limits=limits or GatewayLimits(overload_wait_s=0),
        describe=describe,
    )
    gate.observer = observer
    return gate


def call(body: object, *, format="chat/completions", policy: Policy = STRICT, **fields) -> GatewayCall:
    return GatewayCall("up", format, body if isinstance(body, bytes) else json.dumps(body).encode(), policy, **fields)


def chat(*, stream: bool = True, content: object = "hello", **fields) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], "stream": stream, **fields}


async def asked(gate: Gateway, request: GatewayCall) -> tuple[GatewayResponse, bytes]:
    """The answer, and all its bytes."""
    try:
        async with gate.answer(request) as answer:
            if answer.events is None:
                return answer, answer.body or b""
            return answer, b"".join([part async for part in answer.events])
    finally:
        await gate.aclose()


def ask(gate: Gateway, request: GatewayCall) -> tuple[GatewayResponse, bytes]:
    return asyncio.run(asked(gate, request))


def ask_in_two(gate: Gateway, script: Script, request: GatewayCall, *, at: int) -> tuple[bytes, bytes]:
    """What a client gets while the upstream waits before its chunk `at`, and what it gets after that."""
    script.gate, script.gate_at = asyncio.Event(), at

    async def watch() -> tuple[bytes, bytes]:
        async with gate.answer(request) as answer:
            assert answer.events is not None
            early = await anext(answer.events)
            assert script.gate is not None
            script.gate.set()
            late = b"".join([part async for part in answer.events])
        await gate.aclose()
        return early, late

    return asyncio.run(watch())


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def delta(index: int = 0, *, reason: str | None = None, **fields: object) -> bytes:
    choice = {"index": index, "delta": fields, "finish_reason": reason}
    return event({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def spoken(*pieces: str) -> Script:
    """An upstream that streams an answer in pieces."""
    return Script(*[delta(content=piece) for piece in pieces], delta(reason="stop"), DONE)


def document_of(text: str, **beside: object) -> bytes:
    """An answer that is not streamed, with further fields beside its choices."""
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], **beside}).encode()


def document(text: str, **beside: object) -> Script:
    """An upstream that gives such an answer."""
    return Script(document_of(text, **beside), content_type="application/json")


DONE = b"data: [DONE]\n\n"


def events_in(data: bytes) -> list[dict]:
    """The JSON of every event."""
    lines = [line.removeprefix(b"data: ") for line in data.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def texts_in(data: bytes) -> dict[tuple, str]:
    """What a client puts together from a stream of chat completions: each string of each choice, by its path."""
    texts: dict[tuple, str] = {}

    def add(value: object, path: tuple) -> None:
        if isinstance(value, str):
            texts[path] = texts.get(path, "") + value
        elif isinstance(value, dict):
            for key, item in value.items():
                add(item, (*path, key))
        elif isinstance(value, list):
            for place, item in enumerate(value):
                index = item.get("index", place) if isinstance(item, dict) else place
                add(item, (*path, index))

    for body in events_in(data):
        for choice in body.get("choices", []):
            add(choice.get("delta"), (choice["index"],))
    return texts


def reasons_in(data: bytes) -> dict[int, str]:
    return {
        choice["index"]: choice["finish_reason"]
        for body in events_in(data)
        for choice in body.get("choices", [])
        if choice.get("finish_reason")
    }
