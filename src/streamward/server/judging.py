"""Whole texts: judged for a caller, logged, counted."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from streamward.decisions import combine, decide_error
from streamward.errors import GuardFailedError, OverloadedError, StreamwardError
from streamward.moderation.conversation import MessageLike, read_conversation
from streamward.moderation.detection import decide_findings, logged
from streamward.moderation.health import EngineStepError
from streamward.observability import defect
from streamward.schema import Message, Result, Side
from streamward.server.records import ModerationContext, Texts
from streamward.server.state import ServiceState

logger = logging.getLogger(__name__)


async def judge(
    state: ServiceState,
    job: ModerationContext,
    *,
    prompt: str | None = None,
    response: str | None = None,
    messages: Sequence[MessageLike] | None = None,
) -> Result:
    """Judge a conversation and log the decision.

    Returns:
        The result. Where the guard failed in whatever way, its decision is that of the policy's `on_error`.

    Raises:
        InputError: There is nothing to judge, blank text included, or a message is malformed.
        ContextLengthError: The text is too long.
        OverloadedError: There is no room at present.
        AuditError: The decision could not be logged.
    """
    given = read_conversation(
        prompt=prompt, response=response, messages=messages, max_chars=state.config.limits.max_chars
    )
    limit_s = state.config.limits.judge_timeout_s
    try:
        with job.guard_time.waiting():
            async with asyncio.timeout(limit_s):
                result = await state.with_policy(job.policy).amoderate(prompt, response, messages)
    except TimeoutError as error:
        raise OverloadedError(f"the guard did not answer within {limit_s:g} s; try again later") from error
    except Exception as error:
        if isinstance(error, StreamwardError) and not isinstance(error, EngineStepError):
            raise  # these are not failures of the guard
        result = failed(job, error, sides=[Side.PROMPT] * given.has_prompt + [Side.RESPONSE] * bool(given.response))
        result = replace(result, decision=combine(result.decision, decide_findings(job.policy.policy, given)))
    texts = Texts(
        logged(job.policy.policy, given.context[-1].content, Side.PROMPT) if given.has_prompt else None,
        None if given.response is None else logged(job.policy.policy, _said(given.response), Side.RESPONSE),
    )
    await state.record_decision(job, result, texts=texts)
    return result


def failed(job: ModerationContext, error: Exception, *, sides: Sequence[Side]) -> Result:
    """Return what follows from a guard that failed with an error it should not give. Its text is not logged."""
    logger.error("guard failed", extra={"request_id": job.request_id, **defect(error)})
    told = error if isinstance(error, StreamwardError) else GuardFailedError("the guard failed")
    policy = job.policy.policy
    prompt = decide_error(policy, Side.PROMPT, told) if Side.PROMPT in sides else None
    response = decide_error(policy, Side.RESPONSE, told) if Side.RESPONSE in sides else None
    return Result(combine(prompt, response))


def _said(turn: Message) -> str:
    return turn.content if turn.reasoning is None else f"{turn.reasoning}\n{turn.content}"
