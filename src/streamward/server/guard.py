"""`POST /v1/guard`: a prompt, a response or a conversation, and everything the guard has to say about it."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from streamward.server.auth import CallerNow
from streamward.server.errors import ERRORS
from streamward.server.judging import judge
from streamward.server.middleware import request_id
from streamward.server.records import Job
from streamward.server.state import service_state
from streamward.server.wire import Judged, Name, PolicyInForce, Turn
from streamward.settings import Settings

router = APIRouter(tags=["moderation"])


class GuardRequest(Settings):
    """What is to be judged: a prompt, a response, both, or messages."""

    prompt: str | None = None
    """What the user said."""
    response: str | None = None
    """What the assistant said; judged in the light of the prompt, if there is one."""
    messages: Annotated[tuple[Turn, ...], Field(min_length=1)] | None = None
    """Instead of both: a conversation. Judged are its last user turn and, if it ends with one, the assistant's."""
    policy: Name | None = None
    """Name of a policy; by default the key's."""
    verdicts: bool = False
    """Whether to list the verdict of every token."""


class GuardAnswer(Judged):
    """The decision, and the judgement of each side."""

    id: str
    guard: str
    policy: PolicyInForce


@router.post("/v1/guard", responses=ERRORS)
async def guard(body: GuardRequest, request: Request, caller: CallerNow) -> GuardAnswer:
    """Judge a prompt, a response or a conversation."""
    state = service_state(request)
    kept = caller.choose_policy(state, body.policy)
    job = Job(request_id=request_id(request), tenant=caller.tenant, key_id=caller.key_id, endpoint="guard", policy=kept)
    messages = None if body.messages is None else [turn.message for turn in body.messages]
    result = await judge(state, job, prompt=body.prompt, response=body.response, messages=messages)
    judged = Judged.of(result, has_verdicts=body.verdicts)
    return GuardAnswer(
        id=job.request_id,
        guard=state.config.guard,
        policy=PolicyInForce.of(kept),
        decision=judged.decision,
        prompt=judged.prompt,
        response=judged.response,
    )
