"""The report on one call when it ends, and the times in it."""

import asyncio
from collections.abc import Callable

from streamward.decisions import ALLOWED, combine
from streamward.gateway.call_record import CallRecord, EndReason, GatewayCall, Observer
from streamward.gateway.interventions import Interventions
from streamward.gateway.prompt_guard import PromptGuard
from streamward.gateway.release_buffer import Cutoff
from streamward.gateway.wire import ClientRequest
from streamward.schema import Decision


class CallReport:
    """Collects what a call's record states, and tells the observer once."""

    def __init__(
        self,
        call: GatewayCall,
        request: ClientRequest,
        judges: PromptGuard,
        *,
        observer: Observer,
        clock: Callable[[], float],
        started: float,
    ) -> None:
        """Begin with a call that was understood at a time of the clock, in seconds."""
        self.started = started
        """Time at which the call began, by the clock."""
        self.decision: Decision = ALLOWED
        """Decision about the prompt."""
        self.stops: list[Cutoff] = []
        """Choices that the guard has stopped."""
        self.guard_s = 0.0
        """Time spent waiting for the guard while there was something to judge."""
        self.interventions: Interventions | None = None
        """Choices that were changed in progress."""
        self._call = call
        self._request = request
        self._judges = judges
        self._observer = observer
        self._clock = clock
        self._prompt_s = 0.0
        self._first_byte_s: float | None = None
        self._is_told = False

    def note_prompt(self) -> None:
        """Note that the prompt's verdict is there."""
        self._prompt_s = self._clock() - self.started

    def note_first_byte(self) -> None:
        """Note that text of the answer leaves."""
        if self._first_byte_s is None:
            self._first_byte_s = self._clock() - self.started

    def end_reason(self) -> EndReason:
        """Say how an answer ended that the upstream gave whole: a guard that failed is not harm that was found."""
        decisions = [stop.decision for stop in self.stops]
        if self.interventions is not None:
            decisions += self.interventions.ended_by
        if not decisions:
            return EndReason.COMPLETE
        has_failed = all(decision.error is not None for decision in decisions)
        return EndReason.GUARD_FAILED if has_failed else EndReason.RESPONSE_BLOCKED

    async def tell(self, ending: EndReason, *, status: int = 200, error: str | None = None) -> None:
        """Tell the observer, once."""
        if self._is_told:
            return
        self._is_told = True
        outcome = CallRecord(
            call=self._call,
            model=self._request.model,
            is_stream=self._request.is_stream,
            status=status,
            ending=ending,
            decision=self._decision_of_all(),
            messages=self._request.prompts[0].messages,
            prompt=self._judges.prompts[0][0] if self._judges.prompts else None,
            parts=self._judges.texts(),
            prompt_s=self._prompt_s,
            first_byte_s=self._first_byte_s,
            duration_s=self._clock() - self.started,
            guard_s=self.guard_s,
            num_tokens=self._judges.num_tokens,
            error=error,
            interventions=() if self.interventions is None else tuple(self.interventions.records),
        )
        await asyncio.shield(self._observer.finished(outcome))

    def _decision_of_all(self) -> Decision:
        decision = self.decision
        for group in self._judges.fields.readers:
            decision = combine(decision, self._judges.fields.decision_of(group))
        return decision
