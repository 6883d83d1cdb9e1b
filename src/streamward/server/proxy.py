"""`/{upstream}/v1/...`: guarded models. What of an answer may leave is decided in `streamward.gateway`."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, Literal, NamedTuple

import httpx
from fastapi import APIRouter, FastAPI, Header, HTTPException, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from streamward.detectors.detectors import Detectors
from streamward.gateway.call_record import GatewayCall, GatewayResponse
from streamward.gateway.gateway import Gateway
from streamward.gateway.guard import JudgedStream
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.upstream import Upstream
from streamward.gateway.wire import FormatName
from streamward.policy import Policy
from streamward.schema import Message, RiskLevel, SideResult
from streamward.server.auth import Caller, MeteredCaller
from streamward.server.errors import ERRORS
from streamward.server.gateway_log import GatewayLog, GatewayMetrics
from streamward.server.moderations import ALL_KEYS, OPENAI_KEYS
from streamward.server.state import ServiceState, service_state
from streamward.server.wire import risk_of


class ModelCard(BaseModel):
    """A model of an upstream."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models of an upstream, as OpenAI lists them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class GuardedModels(NamedTuple):
    """State shared by the routes of this module; `app.state.gateway`, made by `guarded_models`."""

    gateway: Gateway
    metrics: GatewayMetrics


def guarded_models(state: ServiceState) -> GuardedModels:
    """Make what the routes here work with, once for a service.

    Raises:
        ConfigError: The environment variable that should hold an upstream's key does not.
    """
    return GuardedModels(open_gateway(state), GatewayMetrics(state))


def open_gateway(state: ServiceState, *, transports: Mapping[str, httpx.AsyncBaseTransport] | None = None) -> Gateway:
    """Stand in front of the configured upstreams; nothing is asked yet.

    Args:
        state: The service.
        transports: Replaced in tests, by upstream.

    Raises:
        ConfigError: As `guarded_models`.
    """
    config = state.config
    upstreams = {
        name: Upstream(name, each, transport=(transports or {}).get(name)) for name, each in config.upstreams.items()
    }

    def open_guard(messages: Sequence[Message], policy: Policy) -> AbstractAsyncContextManager[JudgedStream]:
        # the gateway has the policy's detectors read each field of a request and of its answer
        return state.guard(policy).with_detectors(Detectors()).astream(messages=messages or None)

    return Gateway(upstreams, open_guard, limits=config.gateway, describe=describe)


def describe(judgement: SideResult) -> JsonObject:
    """Return a judgement as OpenAI's moderation result states it; scores as in `/v1/moderations`."""
    named = judgement.categories or (() if judgement.category is None else (judgement.category,))
    keys = frozenset(key for category in named for key in OPENAI_KEYS[category])
    is_flagged = judgement.risk_level is not RiskLevel.SAFE
    risk = risk_of(judgement.probabilities)
    judged = {key for each in OPENAI_KEYS.values() for key in each}
    return {
        "flagged": is_flagged,
        "categories": {key: is_flagged and key in keys for key in ALL_KEYS},
        "category_scores": {key: risk if key in keys else 0.0 for key in ALL_KEYS},
        "category_applied_input_types": {key: ["text"] if key in judged else [] for key in ALL_KEYS},
    }


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await app.state.gateway.gateway.aclose()


router = APIRouter(tags=["gateway"], lifespan=_lifespan)

UpstreamName = Annotated[str, Path(min_length=1, max_length=64, description="Name of a configured upstream.")]
PolicyName = Annotated[
    str | None, Header(alias="x-streamward-policy", max_length=200, description="Policy; by default the key's.")
]
Extras = Annotated[
    Literal["azure", "guard", "azure,guard"] | None,
    Header(
        alias="x-streamward-annotations",
        description="`azure`: content filter results. `guard`: what was changed in the answer.",
    ),
]
_BODY: dict[str, Any] = {  # Any: OpenAPI
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}
_ANSWERS: dict[int | str, dict[str, Any]] = {  # Any: FastAPI's own type
    **ERRORS,
    200: {
        "description": "The upstream's answer, guarded.",
        "content": {"application/json": {}, "text/event-stream": {}},
    },
    404: {"description": "There is no such upstream, or it knows no such model."},
    422: {"description": "The upstream refused the request."},
    504: {"description": "The upstream did not answer in time."},
}


@router.post("/{upstream}/v1/chat/completions", responses=_ANSWERS, openapi_extra=_BODY)
async def chat_completions(
    upstream: UpstreamName, request: Request, caller: MeteredCaller, policy: PolicyName = None, extras: Extras = None
) -> Response:
    """Ask a guarded model for chat completions."""
    return await _answer("chat/completions", upstream, request, caller, policy=policy, extras=extras)


@router.get("/{upstream}/v1/models", responses={**ERRORS, 404: {"description": "There is no such upstream."}})
async def models(upstream: UpstreamName, request: Request, caller: MeteredCaller) -> ModelList:
    """List the models of an upstream: ids, times and owners."""
    gateway = _gateway_for(upstream, request, caller).gateway
    return ModelList(data=[ModelCard.model_validate(model) for model in await gateway.models(upstream)])


@router.get(
    "/{upstream}/v1/models/{model:path}",
    responses={**ERRORS, 404: {"description": "There is no such upstream, or no such model."}},
)
async def model(
    upstream: UpstreamName, model: Annotated[str, Path(max_length=200)], request: Request, caller: MeteredCaller
) -> ModelCard:
    """Return one of the models of an upstream."""
    gateway = _gateway_for(upstream, request, caller).gateway
    found = next((card for card in await gateway.models(upstream) if card["id"] == model), None)
    if found is None:
        raise HTTPException(404, "There is no model of this name, or it may not be asked for here.")
    return ModelCard.model_validate(found)


@router.post("/{upstream}/v1/embeddings", responses=_ANSWERS, openapi_extra=_BODY)
async def embeddings(
    upstream: UpstreamName, request: Request, caller: MeteredCaller, policy: PolicyName = None
) -> Response:
    """Ask a model for embeddings; the texts are judged as prompts."""
    return await _answer("embeddings", upstream, request, caller, policy=policy, extras=None)


@router.post("/{upstream}/v1/completions", responses=_ANSWERS, openapi_extra=_BODY)
async def completions(
    upstream: UpstreamName, request: Request, caller: MeteredCaller, policy: PolicyName = None, extras: Extras = None
) -> Response:
    """Ask a guarded model for text completions."""
    return await _answer("completions", upstream, request, caller, policy=policy, extras=extras)


@router.post("/{upstream}/v1/responses", responses=_ANSWERS, openapi_extra=_BODY)
async def responses(
    upstream: UpstreamName, request: Request, caller: MeteredCaller, policy: PolicyName = None, extras: Extras = None
) -> Response:
    """Ask a guarded model for a response."""
    return await _answer("responses", upstream, request, caller, policy=policy, extras=extras)


async def _answer(
    wire: FormatName,
    upstream: str,
    request: Request,
    caller: Caller,
    *,
    policy: str | None,
    extras: str | None,
) -> Response:
    state = service_state(request)
    guarded = _gateway_for(upstream, request, caller)
    kept = caller.choose_policy(state, policy)
    job = caller.context(request, "gateway", kept, upstream=upstream)
    asked = (extras or "").split(",")
    call = GatewayCall(
        upstream,
        wire,
        await request.body(),
        kept.policy,
        has_annotations="azure" in asked,
        reports_interventions="guard" in asked,
        request_id=job.request_id,
        tenant=caller.tenant,
    )
    log = GatewayLog(state, job, guarded.metrics)
    return _Guarded(guarded.gateway.answer(call, observer=log), client_timeout_s=state.config.gateway.client_timeout_s)


def _gateway_for(upstream: str, request: Request, caller: Caller) -> GuardedModels:
    guarded: GuardedModels = request.app.state.gateway
    caller.check_upstream(upstream)
    if not guarded.gateway.knows(upstream):
        raise HTTPException(404, "There is no upstream of this name.")
    return guarded


class _Guarded(Response):
    """Sends an answer as it comes, at the client's pace; ends everything when the client goes."""

    def __init__(self, answer: AbstractAsyncContextManager[GatewayResponse], *, client_timeout_s: float) -> None:
        super().__init__()
        self._guarded = answer
        self._client_timeout_s = client_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(scope, receive, send))
        leaving = asyncio.create_task(_leave(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending_was_done = sending.done()
            for task in (sending, leaving):
                task.cancel()
            found, _ = await asyncio.gather(sending, leaving, return_exceptions=True)
        if sending_was_done and isinstance(found, BaseException):
            raise found

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._guarded as answer:
            if answer.events is None:
                whole = Response(answer.body, answer.status, dict(answer.headers), "application/json")
                await whole(scope, receive, self._paced(send))
            else:
                await self._stream(answer, self._paced(send))

    async def _stream(self, answer: GatewayResponse, send: Send) -> None:
        assert answer.events is not None, "it is streamed"
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no", **answer.headers}
        start = Response(None, answer.status, headers, "text/event-stream")
        raw = [pair for pair in start.raw_headers if pair[0] != b"content-length"]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        async for part in answer.events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _paced(self, send: Send) -> Send:
        """Return a `send` that does not wait for ever."""

        async def paced(message: AsgiMessage) -> None:
            try:
                async with asyncio.timeout(self._client_timeout_s):
                    await send(message)
            except TimeoutError as error:
                raise ConnectionAbortedError("the client did not take the answer in time") from error

        return paced


async def _leave(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
