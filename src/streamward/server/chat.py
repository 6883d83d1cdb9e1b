"""`POST /v1/chat/completions` with the guard as the model: it answers as Qwen3Guard-Gen does. And `GET /v1/models`."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from streamward.errors import InputError, UpstreamError
from streamward.schema import Result, Side, SideResult
from streamward.server.auth import IdentifiedCaller, MeteredCaller
from streamward.server.errors import ERRORS
from streamward.server.judging import judge
from streamward.server.moderations import ModerationOptions
from streamward.server.records import new_id
from streamward.server.state import ServiceState, service_state
from streamward.server.wire import Lenient, Messages, PolicyInForce, SideWire

router = APIRouter(tags=["moderation"])

NO_CATEGORY = "None"


class GuardChatRequest(Lenient):
    """A conversation. Its last turn is judged: the user's as a prompt, the assistant's as a response."""

    messages: Messages
    model: str | None = None
    """Ignored: the service has one guard."""
    stream: bool | None = None
    n: int | None = None
    """A guard gives one answer."""
    streamward: ModerationOptions = ModerationOptions()
    """Options beyond OpenAI's schema; the last turn's role decides `side`."""


@router.post("/v1/chat/completions", responses=ERRORS, response_model=None)
async def chat_completions(body: GuardChatRequest, request: Request, caller: MeteredCaller) -> Response:
    """Judge the last turn of a conversation, and answer in the words of Qwen3Guard-Gen."""
    state = service_state(request)
    if body.n not in (None, 1):
        raise InputError(f"n is {body.n}; a guard gives one answer")
    kept = caller.choose_policy(state, body.streamward.policy)
    job = caller.context(request, "chat", kept, model=body.model)
    result = await judge(state, job, messages=body.messages)
    text = answer_text(result, Side.RESPONSE if body.messages[-1]["role"] == "assistant" else Side.PROMPT)
    extension = {
        **SideWire.of(result, has_verdicts=False).model_dump(mode="json"),
        "policy": PolicyInForce.of(kept).model_dump(mode="json"),
    }
    answer_id = new_id("chatcmpl")
    if body.stream:
        chunks = _chunks(answer_id, state.config.guard, text, extension)
        return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    return JSONResponse(_envelope(answer_id, state.config.guard, choice, "chat.completion") | {"streamward": extension})


@router.get("/v1/models", responses=ERRORS)
async def models(request: Request, caller: IdentifiedCaller) -> JSONResponse:
    """Name the guard, as OpenAI lists models."""
    del caller
    return JSONResponse({"object": "list", "data": [_model(service_state(request))]})


@router.get("/v1/models/{name:path}", responses=ERRORS)
async def model(name: str, request: Request, caller: IdentifiedCaller) -> JSONResponse:
    """Describe the guard, as OpenAI describes a model."""
    del caller
    state = service_state(request)
    if name != state.config.guard:
        raise InputError("there is no such model; see /v1/models")
    return JSONResponse(_model(state))


def _model(state: ServiceState) -> dict[str, object]:
    return {"id": state.config.guard, "object": "model", "created": 0, "owned_by": "streamward"}


def answer_text(result: Result, side: Side) -> str:
    """Return a result in the words of Qwen3Guard-Gen; no Refusal line where the guard does not say.

    Raises:
        UpstreamError: The guard failed on a side it was asked about, so there is nothing to say.
    """
    judgement = result.prompt if side is Side.PROMPT else result.response
    if judgement is None:
        raise UpstreamError(f"the guard could not judge the {side.value} ({result.decision.error})")
    lines = [f"Safety: {judgement.risk_level.value}", f"Categories: {_category(judgement)}"]
    if side is Side.RESPONSE and judgement.refusal is not None:
        lines.append(f"Refusal: {'Yes' if judgement.refusal else 'No'}")
    return "\n".join(lines)


def _category(judgement: SideResult) -> str:
    if judgement.category is None:
        return NO_CATEGORY
    return ", ".join(category.value for category in judgement.categories or (judgement.category,))


def _envelope(answer_id: str, guard: str, choice: Mapping[str, Any], kind: str) -> dict[str, Any]:  # Any: JSON values
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": guard, "choices": [choice]}


async def _chunks(
    answer_id: str,
    guard: str,
    text: str,
    extension: Mapping[str, Any],  # Any: JSON values
) -> AsyncIterator[str]:
    """Yield an answer line by line; it is judged and logged already."""
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": line} for line in text.splitlines(keepends=True)]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        yield f"data: {json.dumps(_envelope(answer_id, guard, choice, 'chat.completion.chunk'))}\n\n"
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    closing = _envelope(answer_id, guard, last, "chat.completion.chunk") | {"streamward": dict(extension)}
    yield f"data: {json.dumps(closing)}\n\n"
    yield "data: [DONE]\n\n"
