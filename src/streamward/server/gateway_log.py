"""Audit rows, metrics and live events of guarded answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import Counter, Histogram

from streamward.decisions import ALLOWED, combine
from streamward.errors import StreamwardError
from streamward.gateway.call_record import CallRecord, EndReason, GuardedText
from streamward.moderation.detection import response_detectors
from streamward.schema import Decision, Event, Message, Result, Role
from streamward.server.live import LiveKind, LiveText, LiveToken, decision_event
from streamward.server.records import ModerationContext, Texts
from streamward.server.state import ServiceState

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

_NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class GatewayMetrics:
    """Metrics of the gateway besides decisions. Labels are names from the settings and closed sets."""

    def __init__(self, state: ServiceState) -> None:
        """Start at zero."""
        registry = state.metrics.registry

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, ["upstream"], namespace="streamward", registry=registry, buckets=_SECONDS)

        self._answers = Counter(
            "gateway_answers",
            "Guarded answers, by how they ended",
            ["upstream", "format", "ending"],
            namespace="streamward",
            registry=registry,
        )
        self._prompt = histogram("gateway_prompt_seconds", "Time to the prompt's verdict")
        self._first_byte = histogram("gateway_first_byte_seconds", "Time to the first text of a streamed answer")
        self._guard = histogram("gateway_guard_seconds", "Time an answer waited for the guard, in sum")
        self._interventions = Counter(
            "gateway_interventions",
            "Flags in answers that were changed in progress, by the step that ended them and how",
            ["upstream", "action", "outcome"],
            namespace="streamward",
            registry=registry,
        )

        def counts(name: str, text: str) -> Histogram:
            buckets = _NUMBERS
            return Histogram(
                name, text, ["upstream", "action"], namespace="streamward", registry=registry, buckets=buckets
            )

        self._attempts = counts("gateway_intervention_attempts", "Steps tried for one flag")
        self._wait_tokens = counts("gateway_intervention_wait_tokens", "Tokens read between two texts that left")
        self._dropped_tokens = counts("gateway_intervention_dropped_tokens", "Tokens dropped for one flag")

    def ended(self, outcome: CallRecord) -> None:
        """Count an answer."""
        upstream = outcome.call.upstream
        self._answers.labels(upstream, outcome.call.format, outcome.ending).inc()
        self._prompt.labels(upstream).observe(outcome.prompt_s)
        self._guard.labels(upstream).observe(outcome.guard_s)
        if outcome.first_byte_s is not None:
            self._first_byte.labels(upstream).observe(outcome.first_byte_s)
        for each in outcome.interventions:
            record = each.record
            self._interventions.labels(upstream, record.action.value, record.outcome).inc()
            self._attempts.labels(upstream, record.action.value).observe(record.attempts)
            self._wait_tokens.labels(upstream, record.action.value).observe(record.wait_tokens)
            self._dropped_tokens.labels(upstream, record.action.value).observe(record.dropped_tokens)


class GatewayLog:
    """Observes one call: a row of the log for each part of the answer, before the client sees the end."""

    def __init__(self, state: ServiceState, job: ModerationContext, metrics: GatewayMetrics) -> None:
        """Observe a call that a job stands for."""
        self._state = state
        self._job = job
        self._metrics = metrics
        self._texts: dict[str, LiveText] = {}

    def judged(self, name: str, text: str, events: Sequence[Event]) -> None:
        """Show newly judged tokens to whoever watches."""
        is_new = name not in self._texts
        if is_new:
            self._texts[name] = LiveText(response_detectors(self._job.policy.policy))
        shown = self._texts[name]
        shown.add(text)
        tokens = shown.tokens(events)
        if not self._state.feed.is_watched:
            return
        if is_new:
            self._publish(LiveKind.OPENED, name, ALLOWED)
        if tokens.tokens:
            decision = events[-1].decision if events else ALLOWED
            self._publish(LiveKind.TOKENS, name, decision, start=tokens.start, tokens=tokens.tokens)

    def truncated(self, name: str, num_chars: int, num_tokens: int) -> None:
        """Show whoever watches which tokens were dropped."""
        if name in self._texts:
            self._texts[name].truncate(num_chars)
            if self._state.feed.is_watched:
                self._publish(LiveKind.DROPPED, name, ALLOWED, start=num_tokens)

    async def finished(self, outcome: CallRecord) -> None:
        """Log what was judged.

        Raises:
            AuditError: It could not be logged.
            OverloadedError: Too much waits to be logged.
        """
        self._show_rest()
        try:
            await self._record(outcome)
        except StreamwardError:
            self._metrics.ended(replace(outcome, ending=EndReason.NOT_RECORDED))
            raise
        self._metrics.ended(outcome)

    def _show_rest(self) -> None:
        """Show what waited for the detectors."""
        for name, shown in self._texts.items():
            rest = shown.finish()
            if rest.tokens and self._state.feed.is_watched:
                self._publish(LiveKind.TOKENS, name, ALLOWED, start=rest.start, tokens=rest.tokens)

    async def _record(self, outcome: CallRecord) -> None:
        prompt_text = _prompt_text(outcome.messages)
        job = replace(self._job, model=outcome.model[:200])
        parts: Sequence[GuardedText | None] = outcome.parts or (None,)
        for place, part in enumerate(parts):
            decision = outcome.decision if part is None else part.decision
            if part is not None and outcome.ending in (EndReason.PROMPT_BLOCKED, EndReason.GUARD_FAILED):
                decision = combine(outcome.decision, decision)
            await self._state.record_decision(
                job if part is None else replace(job, stream_id=self._stream_id(part.name)),
                Result(decision, outcome.prompt if place == 0 else None, None if part is None else part.judgement),
                texts=Texts(prompt_text if place == 0 else None, None if part is None else part.text),
                details=_details(outcome, part),
            )

    def _publish(
        self, kind: LiveKind, name: str, decision: Decision, *, start: int = 0, tokens: Sequence[LiveToken] = ()
    ) -> None:
        stream_id = self._stream_id(name)
        self._state.feed.publish(
            decision_event(kind, self._job, decision, stream_id=stream_id, start=start, tokens=tokens)
        )

    def _stream_id(self, name: str) -> str:
        return f"{self._job.request_id}/{name}"


def _prompt_text(messages: Sequence[Message]) -> str | None:
    return messages[-1].content if messages and messages[-1].role is Role.USER else None


def _details(outcome: CallRecord, part: GuardedText | None) -> dict[str, Any]:  # Any: JSON values
    details = {
        "format": outcome.call.format,
        "stream": outcome.is_stream,
        "ending": outcome.ending.value,
        "status": outcome.status,
        "prompt_ms": round(outcome.prompt_s * 1000, 1),
        "first_byte_ms": None if outcome.first_byte_s is None else round(outcome.first_byte_s * 1000, 1),
        "guard_ms": round(outcome.guard_s * 1000, 1),
        "error": outcome.error,
        "judged_chars": None if part is None else part.num_judged_chars,
        "shown_chars": None if part is None else part.num_shown_chars,
        "interventions": _interventions(outcome, part),
    }
    return {name: value for name, value in details.items() if value is not None}


def _interventions(outcome: CallRecord, part: GuardedText | None) -> list[dict[str, Any]] | None:  # Any: JSON values
    """Return what was changed in a choice; it stands with the first part of the choice."""
    told = [each.told() for each in outcome.interventions if part is not None and part.name == str(each.group)]
    return told or None
