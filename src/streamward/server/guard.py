"""`POST /v1/guard`: a prompt, a response or a conversation, and everything the guard has to say about it."""

from fastapi import APIRouter, Request

from streamward.server.auth import MeteredCaller
from streamward.server.detection import FindingWire, MaskedTexts, detect
from streamward.server.errors import ERRORS
from streamward.server.judging import judge
from streamward.server.records import num_tokens
from streamward.server.state import service_state
from streamward.server.wire import Messages, Name, PolicyInForce, SideWire
from streamward.settings import Settings

router = APIRouter(tags=["moderation"])


class GuardRequest(Settings):
    """Request body: a prompt, a response, both, or messages."""

    prompt: str | None = None
    """The user's text."""
    response: str | None = None
    """The assistant's text; judged in the context of the prompt, if there is one."""
    messages: Messages | None = None
    """Instead of both: a conversation. Judged are its last user turn, results of tools behind it, and, if it ends with
    one, the assistant's turn with its tool calls."""
    policy: Name | None = None
    """Name of a policy; by default the key's."""
    verdicts: bool = False
    """If true, the result lists the verdict of every token."""


class GuardAnswer(SideWire):
    """The decision, and the judgement of each side."""

    id: str
    guard: str
    policy: PolicyInForce
    num_tokens: int
    """Tokens judged, on both sides."""
    guard_ms: float
    """Time that the request waited for the guard, in milliseconds."""
    findings: tuple[FindingWire, ...] = ()
    """Findings of the policy's detectors."""
    masked: MaskedTexts | None = None
    """The request's texts, masked; null if the policy has no detectors."""


@router.post("/v1/guard", responses=ERRORS)
async def guard(body: GuardRequest, request: Request, caller: MeteredCaller) -> GuardAnswer:
    """Judge a prompt, a response or a conversation."""
    state = service_state(request)
    kept = caller.choose_policy(state, body.policy)
    job = caller.context(request, "guard", kept)
    result = await judge(state, job, prompt=body.prompt, response=body.response, messages=body.messages)
    judged = SideWire.of(result, has_verdicts=body.verdicts)
    found = detect(kept.policy, prompt=body.prompt, response=body.response, messages=body.messages)
    return GuardAnswer(
        id=job.request_id,
        guard=state.config.guard,
        policy=PolicyInForce.of(kept),
        decision=judged.decision,
        prompt=judged.prompt,
        response=judged.response,
        num_tokens=num_tokens(result),
        guard_ms=job.guard_time.ms or 0.0,
        findings=found.findings,
        masked=found.masked,
    )
