"""The assistant over HTTP, as an OpenAI-compatible upstream."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from streamward.assistant import wire
from streamward.assistant.writer import MODEL_NAME, Assistant, TextDelta, Writing
from streamward.errors import ContextLengthError, InputError, OverloadedError, StreamClosedError, StreamwardError
from streamward.validation import findings

R = TypeVar("R", bound=wire.CommonRequest)
_CREATED = 1730419200  # 2024-11-01, when SmolLM2 was published
_DEFAULT_COMPLETION_TOKENS = 16  # the default of OpenAI's API
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request, ready to be written.

    Attributes:
        prefix: Prefix of the answer's id.
        kind: `object` of a whole answer.
        chunk_kind: `object` of a streamed chunk.
        prompts: Token ids, one a choice.
        num_prompt_tokens: Each prompt counted once, however many choices it has.
    """

    request: wire.CommonRequest
    prefix: str
    kind: str
    chunk_kind: str
    prompts: Sequence[Sequence[int]]
    num_prompt_tokens: int
    max_tokens: int

    @property
    def is_chat(self) -> bool:
        """True if choices are messages rather than plain text."""
        return self.prefix == "chatcmpl"


def create_app(assistant: Assistant) -> FastAPI:
    """Put the assistant behind HTTP; it is closed with the app."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        assistant.close()

    app = FastAPI(title="Streamward assistant", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(StreamwardError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    model = {"id": MODEL_NAME, "object": "model", "created": _CREATED, "owned_by": "HuggingFaceTB"}

    @app.get("/health")
    async def health() -> wire.Json:
        return {"status": "ok", "answers": assistant.num_answers}

    @app.get("/v1/models")
    async def models() -> wire.Json:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> wire.Json:
        _check_model(name)
        return model

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        parsed = await _read(request, wire.AssistantChatRequest, max_bytes=assistant.config.max_body_bytes)
        return await _respond(request, assistant, job=_chat_job(assistant, parsed))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        parsed = await _read(request, wire.CompletionRequest, max_bytes=assistant.config.max_body_bytes)
        return await _respond(request, assistant, job=_completion_job(assistant, parsed))

    return app


async def _read(request: Request, kind: type[R], *, max_bytes: int) -> R:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise ContextLengthError(f"the body is longer than {max_bytes} bytes")
    try:
        parsed = kind.model_validate_json(bytes(body))
    except ValidationError as error:
        found = findings(error.errors(include_url=False), kind, table="an object", whole="the body")
        raise InputError("; ".join(map(str, found))) from error
    _check_model(parsed.model)
    return parsed


def _check_model(name: str) -> None:
    if name != MODEL_NAME:
        raise HTTPException(404, f"this model does not exist here; there is {MODEL_NAME}")


def _chat_job(assistant: Assistant, request: wire.AssistantChatRequest) -> GenerationRequest:
    messages = [message.to_message() for message in request.messages]
    prompt = assistant.render_prefill(messages) if request.continue_final_message else assistant.render(messages)
    room = assistant.room(prompt)
    limit = request.max_completion_tokens or request.max_tokens or assistant.config.default_max_tokens
    prompts = [prompt] * request.num_choices
    return GenerationRequest(
        request,
        "chatcmpl",
        "chat.completion",
        "chat.completion.chunk",
        prompts,
        len(prompt),
        max_tokens=min(limit, room),
    )


def _completion_job(assistant: Assistant, request: wire.CompletionRequest) -> GenerationRequest:
    prompts = [assistant.encode(each) if isinstance(each, str) else each for each in request.prompts()]
    room = min(assistant.room(prompt) for prompt in prompts)
    limit = request.max_tokens or _DEFAULT_COMPLETION_TOKENS
    repeated = [prompt for prompt in prompts for _ in range(request.num_choices)]
    num_prompt_tokens = sum(map(len, prompts))
    return GenerationRequest(
        request, "cmpl", "text_completion", "text_completion", repeated, num_prompt_tokens, max_tokens=min(limit, room)
    )


async def _respond(http: Request, assistant: Assistant, *, job: GenerationRequest) -> Response:
    sampling = job.request.sampling(max_tokens=job.max_tokens)
    writing = assistant.write(job.prompts, sampling, stops=job.request.stops)
    if job.request.stream:
        return _EventStream(writing, job)
    try:
        return JSONResponse(await _unless_gone(http, _whole(writing, job)))
    finally:
        writing.cancel()


class _EventStream(StreamingResponse):
    """Server-sent events; however they end, writing ends with them."""

    def __init__(self, writing: Writing, job: GenerationRequest) -> None:
        super().__init__(_events(writing, job), media_type="text/event-stream")
        self._writing = writing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._writing.cancel()


async def _events(writing: Writing, job: GenerationRequest) -> AsyncIterator[str]:
    try:
        async for chunk in _chunks(writing, job):
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
    except StreamwardError as error:
        yield f"data: {json.dumps(wire.error_body(str(error), kind='server_error', code=error.code))}\n\n"
    yield "data: [DONE]\n\n"


async def _chunks(writing: Writing, job: GenerationRequest) -> AsyncIterator[wire.Json]:
    head = _head(job, job.chunk_kind) | ({"usage": None} if job.request.has_usage_chunk else {})
    counts: dict[int, int] = {}

    def usage() -> wire.Json:
        return {"usage": wire.usage(job.num_prompt_tokens, sum(counts.values()))}

    if job.is_chat:
        for choice in range(len(job.prompts)):
            yield head | {"choices": [wire.chat_delta(choice, {"role": "assistant", "content": ""})]}
    async for piece in writing:
        counts[piece.choice] = piece.num_tokens
        for part in _chunk_choices(piece, job):
            yield head | {"choices": [part]} | (usage() if job.request.has_usage_in_chunks else {})
    if job.request.has_usage_chunk:
        yield head | {"choices": []} | usage()


def _chunk_choices(piece: TextDelta, job: GenerationRequest) -> Iterator[wire.Json]:
    """Return the chunks of one piece: text that may be empty is not sent, the end is sent by itself."""
    if not job.is_chat:
        if piece.text or piece.finish_reason:
            yield wire.text_choice(piece.choice, piece.text, finish_reason=piece.finish_reason)
        return
    if piece.text:
        yield wire.chat_delta(piece.choice, {"content": piece.text})
    if piece.finish_reason:
        yield wire.chat_delta(piece.choice, {}, finish_reason=piece.finish_reason)


async def _whole(writing: Writing, job: GenerationRequest) -> wire.Json:
    texts = [""] * len(job.prompts)
    last: dict[int, TextDelta] = {}
    async for piece in writing:
        texts[piece.choice] += piece.text
        last[piece.choice] = piece
    make = wire.chat_choice if job.is_chat else wire.text_choice
    choices = [make(index, text, finish_reason=last[index].finish_reason) for index, text in enumerate(texts)]
    num_completion = sum(piece.num_tokens for piece in last.values())
    return _head(job, job.kind) | {"choices": choices, "usage": wire.usage(job.num_prompt_tokens, num_completion)}


def _head(job: GenerationRequest, kind: str) -> wire.Json:
    return {
        "id": f"{job.prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": job.request.model,
        "system_fingerprint": None,
    }


async def _unless_gone(http: Request, work: Coroutine[None, None, wire.Json]) -> wire.Json:
    """Wait for an answer, but not for longer than the client does.

    Raises:
        StreamClosedError: The client has gone.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            if await http.is_disconnected():
                raise StreamClosedError("the client has gone")
            await asyncio.wait([task], timeout=_POLL_S)
        return task.result()
    finally:
        task.cancel()


def _answer_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, StreamwardError)
    status = 500
    headers: dict[str, str] = {}
    match error:
        case ContextLengthError():
            status = 413
        case InputError():
            status = 400
        case StreamClosedError():
            status = 503
        case OverloadedError():
            status = 503
            headers["Retry-After"] = "1"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse(wire.error_body(str(error), kind=kind, code=error.code), status, headers)


def _answer_http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse(wire.error_body(error.detail, kind="invalid_request_error"), error.status_code, error.headers)
