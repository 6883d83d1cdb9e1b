"""From a judged text to a row of the log."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from streamward.policy import Policy
from streamward.schema import Action, Decision, Result, RiskLevel, Side, SideResult, Span
from streamward.server.audit import AuditRecord
from streamward.server.guard_time import GuardTime
from streamward.server.policy_folder import LoadedPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationContext:
    """Something judged for a caller.

    Attributes:
        request_id: As in the answer's `x-request-id`.
        tenant: Whose request it is.
        key_id: Which key asked.
        endpoint: `moderations`, `guard`, `chat`, `streams`, `gateway` or `litellm`.
        policy: By which policy.
        stream_id: Id of a stream, or the part of an answer that is judged.
        upstream: Name of the guarded server.
        model: The model asked for.
        started_at: `time.perf_counter` when it began.
        guard_time: How long it waited for the guard; the gateway measures that by itself.
    """

    request_id: str
    tenant: str
    key_id: str
    endpoint: str
    policy: LoadedPolicy
    stream_id: str | None = None
    upstream: str | None = None
    model: str | None = None
    started_at: float = field(default_factory=time.perf_counter)
    guard_time: GuardTime = field(default_factory=GuardTime, compare=False)


@dataclass(frozen=True, slots=True)
class Texts:
    """The judged texts; None where there was nothing."""

    prompt: str | None = None
    response: str | None = None


def build_record(
    job: ModerationContext,
    result: Result,
    *,
    texts: Texts,
    guard: str,
    hash_key: bytes | None,
    action: Action | None = None,
    details: Mapping[str, Any] | None = None,  # Any: JSON values
) -> AuditRecord:
    """Return the row of a decision.

    Args:
        job: What was asked.
        result: What came of it.
        texts: What was judged. The row holds their hashes; themselves only if the policy says so.
        guard: Name of the guard.
        hash_key: Makes the hashes HMACs.
        action: What was done, where it is not what the decision says.
        details: Further JSON values, without text. `guard_ms` is added where it was measured.
    """
    decision, now = result.decision, datetime.now(UTC)
    if decision.detector is not None:
        details = {**(details or {}), "detector": decision.detector}
    done = decision.action if action is None else action
    span = flagged_span(result)
    return AuditRecord(
        id=new_id("dec"),
        time=now,
        guard=guard,
        **_job_facts(job),
        action=done,
        **_decision_facts(decision),
        **_side_facts("prompt", result.prompt),
        **_side_facts("response", result.response),
        refusal=None if result.response is None else result.response.refusal,
        flagged_start=None if span is None else span.start,
        flagged_end=None if span is None else span.end,
        num_tokens=num_tokens(result),
        latency_ms=(time.perf_counter() - job.started_at) * 1000,
        **_text_facts(texts, hash_key),
        **(_kept_texts(texts, job.policy.policy, now) if _keeps_text(job.policy.policy, done) else {}),
        details=_with_guard_time(details, job.guard_time.ms),
    )


def _with_guard_time(details: Mapping[str, Any] | None, guard_ms: float | None) -> Mapping[str, Any] | None:
    return details if guard_ms is None else {"guard_ms": round(guard_ms, 2), **(details or {})}


def guard_ms(details: Mapping[str, Any] | None) -> float | None:  # Any: JSON values
    """Return the time that a logged decision waited for the guard, in milliseconds.

    The gateway logs the prompt's share apart from the answer's; both count.

    Args:
        details: From the log.

    Returns:
        None where it was not measured: rows of earlier versions, and calls that never reached the guard.
    """
    if details is None or "guard_ms" not in details:
        return None
    return float(details["guard_ms"]) + float(details.get("prompt_ms", 0.0))


def _decision_facts(decision: Decision) -> dict[str, Any]:  # Any: column values
    facts = {name: getattr(decision, name) for name in ("side", "risk_level", "category", "position", "error")}
    rules = [{"id": rule.id, "score": round(rule.score, 4)} for rule in decision.rules]
    return facts | {"rules": rules or None}


def _job_facts(job: ModerationContext) -> dict[str, Any]:  # Any: column values
    return {
        "tenant": job.tenant,
        "key_id": job.key_id,
        "endpoint": job.endpoint,
        "request_id": job.request_id,
        "stream_id": job.stream_id,
        "upstream": job.upstream,
        "model": job.model,
        "policy": job.policy.policy.name,
        "policy_version": job.policy.policy.version,
        "policy_digest": job.policy.digest,
    }


def _text_facts(texts: Texts, hash_key: bytes | None) -> dict[str, Any]:  # Any: column values
    return {
        "prompt_chars": None if texts.prompt is None else len(texts.prompt),
        "response_chars": None if texts.response is None else len(texts.response),
        "prompt_hash": _text_hash(texts.prompt, hash_key),
        "response_hash": _text_hash(texts.response, hash_key),
    }


def _kept_texts(texts: Texts, policy: Policy, now: datetime) -> dict[str, Any]:  # Any: column values
    until = now + timedelta(days=policy.recording.days)
    return {"prompt_text": texts.prompt, "response_text": texts.response, "text_until": until}


def new_id(prefix: str) -> str:
    """Return an id that sorts by time: 16 hexadecimal digits of nanoseconds, then 16 random ones."""
    return f"{prefix}_{time.time_ns():016x}{secrets.token_hex(8)}"


def num_tokens(result: Result) -> int:
    """Return how many tokens were judged, on both sides."""
    return sum(len(side.verdicts) for side in (result.prompt, result.response) if side is not None)


def _side_facts(name: str, judgement: SideResult | None) -> dict[str, Any]:  # Any: column values
    if judgement is None:
        return {}
    return {
        f"{name}_risk_level": judgement.risk_level,
        f"{name}_category": judgement.category,
        f"{name}_unsafe": judgement.probabilities[RiskLevel.UNSAFE],
        f"{name}_controversial": judgement.probabilities[RiskLevel.CONTROVERSIAL],
    }


def flagged_span(result: Result) -> Span | None:
    """Return the first flagged token's characters, on the side that caused the decision."""
    side = result.decision.side
    judgement = None if side is None else (result.prompt if side is Side.PROMPT else result.response)
    if judgement is None or judgement.first_flagged_char is None:
        return None
    for verdict in judgement.verdicts:
        if verdict.position == judgement.first_flagged_token and verdict.span is not None:
            return verdict.span
    return Span(judgement.first_flagged_char, judgement.first_flagged_char)


def _keeps_text(policy: Policy, action: Action) -> bool:
    wanted = policy.recording.text
    return wanted == "always" or (wanted == "flagged" and action is not Action.ALLOW)


def _text_hash(text: str | None, key: bytes | None) -> str | None:
    if text is None:
        return None
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest() if key is None else hmac.new(key, data, hashlib.sha256).hexdigest()
