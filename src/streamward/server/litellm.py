"""LiteLLM's generic guardrail: `POST /beta/litellm_basic_guardrail_api`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from streamward.decisions import ALLOWED, combine
from streamward.detectors.detectors import compiled
from streamward.detectors.finding import DetectorTarget
from streamward.detectors.masker import mask_text
from streamward.errors import InputError, OverloadedError, StreamClosedError
from streamward.gateway.prompts import to_prompt
from streamward.moderation.detection import response_detectors
from streamward.moderation.messages import read_turn
from streamward.moderation.moderator import Moderator
from streamward.observability import defect
from streamward.schema import Action, Decision, Message, Role, Side
from streamward.server.auth import MeteredCaller
from streamward.server.judging import failed, judge
from streamward.server.litellm_calls import Calls, IncrementalText, LiteLLMCall, TextDecision
from streamward.server.live import LiveKind, LiveText, decision_event
from streamward.server.records import ModerationContext
from streamward.server.state import ServiceState, service_state

logger = logging.getLogger(__name__)

_SWEEP_S = 5.0
_GRACE_S = 0.1
_FIRST = "text 0"


class GuardrailRequest(BaseModel):
    """Request of LiteLLM. Its metadata and headers are not read."""

    model_config = ConfigDict(extra="ignore")

    input_type: Literal["request", "response"]
    litellm_call_id: str | None = Field(default=None, max_length=200)
    texts: list[str] | None = None
    structured_messages: list[dict[str, Any]] | None = None  # Any: OpenAI's messages
    tool_calls: list[dict[str, Any]] | None = None  # Any: OpenAI's tool calls
    model: str | None = None
    additional_provider_specific_params: dict[str, Any] | None = None  # Any: the proxy's settings


class GuardrailAnswer(BaseModel):
    """Response that LiteLLM acts on."""

    action: Literal["BLOCKED", "NONE", "GUARDRAIL_INTERVENED"]
    blocked_reason: str | None = None
    texts: list[str] | None = None
    """The texts of the request as they are to be, if any of them is masked."""
    stream_holdback_chars: list[int] | None = None
    """Characters at the end of each text that must not be shown before the next call."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    streams = app.state.service.config.streams
    app.state.litellm_calls = Calls(max_open=streams.max_open, idle_s=streams.idle_s)
    sweeping = asyncio.create_task(_sweep(app.state.litellm_calls, app.state.service))
    try:
        yield
    finally:
        sweeping.cancel()
        with suppress(TimeoutError):  # the ends of answers that are not judged in time are not logged
            async with asyncio.timeout(app.state.service.admission.until(_GRACE_S)):
                await _close(app.state.litellm_calls, app.state.service, every=True)


router = APIRouter(tags=["litellm"], lifespan=_lifespan)


@router.post("/beta/litellm_basic_guardrail_api", response_model_exclude_none=True)
async def judge_for_litellm(body: GuardrailRequest, caller: MeteredCaller, request: Request) -> GuardrailAnswer:
    """Judge a prompt or an answer for a LiteLLM proxy.

    An answer is judged as it grows: texts of one call id that continue what was sent before cost only what is new. The
    prompt of a call is remembered, so that its answer is judged in its light.
    """
    state = service_state(request)
    calls: Calls = request.app.state.litellm_calls
    wanted = (body.additional_provider_specific_params or {}).get("policy")
    if wanted is not None and not isinstance(wanted, str):
        raise InputError("additional_provider_specific_params.policy must be the name of a policy")
    num_texts = len(body.texts or ()) + len(body.tool_calls or ())
    if num_texts > state.config.limits.max_inputs:
        raise InputError(f"there are {num_texts} texts; limits.max_inputs is {state.config.limits.max_inputs}")
    policy = caller.choose_policy(state, wanted)
    call_id = body.litellm_call_id
    job = caller.context(request, "litellm", policy, model=body.model, stream_id=call_id)
    call = LiteLLMCall() if call_id is None else calls.get(caller.tenant, call_id)
    async with call.lock:
        if body.input_type == "request":
            return await _judge_request(state, job, body=body, call=call)
        call.job = job
        return await _judge_response(state, job, body=body, call=call)


async def _judge_request(
    state: ServiceState, job: ModerationContext, *, body: GuardrailRequest, call: LiteLLMCall
) -> GuardrailAnswer:
    conversations = _conversations(body)
    if len(conversations) == 1:
        call.messages = conversations[0]
    decisions = []
    for messages in conversations:
        decisions.append((await judge(state, job, messages=messages)).decision)
    answer = _answer(_worst(decisions))
    detectors = compiled(job.policy.policy.detectors).for_target(DetectorTarget.PROMPT)
    texts = body.texts or []
    masked = [mask_text(detectors, text, vault=call.vault).text for text in texts] if detectors else texts
    return _with_texts(answer, texts, masked)


def _with_texts(answer: GuardrailAnswer, texts: Sequence[str], masked: Sequence[str]) -> GuardrailAnswer:
    """Return an answer with masked texts, where any differs."""
    if answer.action == "BLOCKED" or list(masked) == list(texts):
        return answer
    return answer.model_copy(update={"action": "GUARDRAIL_INTERVENED", "texts": list(masked)})


def _conversations(body: GuardrailRequest) -> list[tuple[Message, ...]]:
    """Return what is to be judged, each ending with a user's turn: the conversation, or else every text by itself."""
    if not body.structured_messages:
        return [(Message(Role.USER, text),) for text in body.texts or () if text.strip()]
    turns = [  # LiteLLM has images judged by another guardrail
        read_turn(message, where=f"structured_messages[{index}]", refusal=None)
        for index, message in enumerate(body.structured_messages)
    ]
    prompt = to_prompt(turns)
    return [
        messages for messages in (prompt.before_tools, prompt.messages) if messages and messages[-1].content.strip()
    ]


async def _judge_response(
    state: ServiceState, job: ModerationContext, *, body: GuardrailRequest, call: LiteLLMCall
) -> GuardrailAnswer:
    places = [(f"text {index}", text) for index, text in enumerate(body.texts or ())]
    places += [(f"tool call {index}", text) for index, text in enumerate(_arguments(body.tool_calls or ()))]
    opinions = []
    for place, text in places:
        opinion = await _opinion(
            call,
            state.with_policy(job.policy),
            job=job,
            place=place,
            text=text,
            limit_s=state.config.limits.judge_timeout_s,
        )
        _show(state, job, opinion, place=place, text=text)
        if opinion.result is not None:
            await state.record_decision(job, opinion.result, texts=call.spoken(text), details={"place": place})
        opinions.append(opinion)
    texts = body.texts or []
    said = opinions[: len(texts)]
    masked = [text if each.masked is None else each.masked for text, each in zip(texts, said, strict=True)]
    answer = _with_texts(_answer(_worst([opinion.decision for opinion in opinions])), texts, masked)
    held = [each.held_chars if each.masked is None else each.held_masked_chars for each in said]
    return answer.model_copy(update={"stream_holdback_chars": held})


def _show(state: ServiceState, job: ModerationContext, opinion: TextDecision, *, place: str, text: str) -> None:
    """Tell whoever watches what the new tokens are."""
    if not state.feed.is_watched or not opinion.events:
        return
    live = LiveText(response_detectors(job.policy.policy))
    live.add(text)
    found = [live.tokens(opinion.events), live.finish()]
    stream_id = job.stream_id or job.request_id
    state.feed.publish(
        decision_event(
            LiveKind.TOKENS,
            job,
            opinion.decision,
            stream_id=stream_id if place == _FIRST else f"{stream_id} {place}",
            start=opinion.events[0].verdict.position,
            tokens=[token for each in found for token in each.tokens],
        )
    )


async def _opinion(
    call: LiteLLMCall, moderator: Moderator, *, job: ModerationContext, place: str, text: str, limit_s: float
) -> TextDecision:
    if not text.strip():  # there is nothing to judge yet
        return TextDecision(ALLOWED)
    target = DetectorTarget.RESPONSE if place.startswith("text") else DetectorTarget.TOOL_ARGUMENTS
    detectors = compiled(job.policy.policy.detectors).for_target(target)
    try:
        with job.guard_time.waiting():
            async with asyncio.timeout(limit_s):
                return await call.text(place, detectors).judge(text, moderator)
    except (InputError, OverloadedError, StreamClosedError):
        raise
    except Exception as error:  # the guard failed; the next call starts a new stream
        await call.texts.pop(place).close()
        result = failed(job, error, sides=[Side.RESPONSE])
        return TextDecision(result.decision, result=result)


def _arguments(tool_calls: Sequence[dict[str, Any]]) -> list[str]:  # Any: OpenAI's tool calls
    """Return what each tool is called with, its name first."""
    found = []
    for call in tool_calls:
        function = call.get("function") or call.get("custom") or {}
        parts = [function.get(name) for name in ("name", "arguments", "input")] if isinstance(function, dict) else []
        found.append("\n".join(part for part in parts if isinstance(part, str) and part))
    return found


def _worst(decisions: Sequence[Decision]) -> Decision:
    worst = ALLOWED
    for decision in decisions:
        worst = combine(worst, decision)
    return worst


def _answer(decision: Decision) -> GuardrailAnswer:
    """Say what to do. A replacement is sent as the reason of a block: LiteLLM drops rewrites of streamed answers."""
    if decision.action.severity < Action.REPLACE.severity:
        return GuardrailAnswer(action="NONE")
    if decision.message is not None:
        return GuardrailAnswer(action="BLOCKED", blocked_reason=decision.message)
    if decision.error is not None:
        return GuardrailAnswer(action="BLOCKED", blocked_reason=f"Streamward could not judge this ({decision.error})")
    if decision.detector is not None:
        reason = f"Blocked by Streamward: the detector {decision.detector} found something in the {decision.side}"
        return GuardrailAnswer(action="BLOCKED", blocked_reason=reason)
    causes = [*([decision.category] if decision.category else []), *(f"rule {rule.id}" for rule in decision.rules)]
    what = ", ".join([f"{decision.risk_level}", *causes])
    return GuardrailAnswer(action="BLOCKED", blocked_reason=f"Blocked by Streamward: the {decision.side} is {what}")


async def _sweep(calls: Calls, state: ServiceState) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        await _close(calls, state)


async def _close(calls: Calls, state: ServiceState, *, every: bool = False) -> None:
    """Close calls that nobody asks about any more, and log how their answers ended."""
    await asyncio.gather(*(_close_call(state, call) for call in calls.take_idle(every=every)))


async def _close_call(state: ServiceState, call: LiteLLMCall) -> None:
    async with call.lock:
        for place, text in call.texts.items():
            try:
                await _record_decision(state, call, place=place, text=text)
            except Exception as error:  # the next text must be ended all the same
                logger.error("the end of an answer was not logged", extra=defect(error))


async def _record_decision(state: ServiceState, call: LiteLLMCall, *, place: str, text: IncrementalText) -> None:
    async with asyncio.timeout(state.config.limits.judge_timeout_s):
        result = await text.finish()
    if result is not None and call.job is not None:
        await state.record_decision(
            call.job, result, texts=call.spoken(text.text), details={"place": place, "ended": "idle"}
        )
