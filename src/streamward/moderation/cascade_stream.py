"""One response judged by two guards: the first sees every token, the second is asked where it is needed."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from streamward.decisions import ALLOWED, combine
from streamward.moderation.cascade_text import CascadeText, Question
from streamward.moderation.coroutines import GuardCoroutine
from streamward.moderation.guard_stream import GuardStream, Piece
from streamward.moderation.second_opinion import SecondGuard, SecondOpinion, with_opinion
from streamward.moderation.stream_calls import StreamCalls
from streamward.moderation.wrapping_stream import WrappingStream
from streamward.policy import Policy
from streamward.policy_guards.rules import RuleTarget
from streamward.schema import Action, Decision, Event, Message, Result, Side, SideResult

RESPONSE_TARGETS = frozenset({RuleTarget.RESPONSE, RuleTarget.TOOL_ARGUMENTS})


class CascadeStream(WrappingStream):
    """A `ResponseStream` over a guard stream and a second guard. May be fed from several threads, one piece at a time.

    `feed` returns once the second guard has answered, if it was asked. Meanwhile the text it is asked about, and what
    comes behind, is not releasable; the text that arrived in between is asked about together. The next question waits
    for as long as the last one took, so that a slow guard is asked about more text at a time, and does not fall behind.
    """

    def __init__(
        self,
        first: GuardStream,
        second: SecondGuard,
        *,
        policy: Policy,
        context: Sequence[Message],
        prompt: SecondOpinion | None,
    ) -> None:
        """Take over a stream of the first guard, under the policy that it decides by.

        Args:
            first: Opened behind the context; closed with this one.
            second: Is asked.
            policy: In force.
            context: Turns before the response.
            prompt: What the second guard says of the prompt; None if it was not asked.
        """
        super().__init__(first)
        self._first = first
        self._second = second
        self._policy = policy
        self._context = tuple(context)
        self._prompt = prompt
        has_rules = bool(second.rules(policy, RESPONSE_TARGETS))
        self._text = CascadeText(policy, second.config, lower=second.lower, has_rules=has_rules)
        first.listen(self._text.append)
        self._findings: list[SecondOpinion] = []
        self._asked_ends: list[int] = []  # end of the text that each finding is about, in characters
        self._events: list[Event] = []  # events of a call that was cancelled while it asked
        self._ask_again_at = 0.0  # so that at most half of the time is spent waiting for a slow guard
        self._releasable_chars = 0
        self._result: Result | None = None
        self._calls = StreamCalls()

    @property
    def prompt(self) -> SideResult | None:
        """Judgement of the user's turn, the worse of the two guards'; None if there was none."""
        return with_opinion(self._first.prompt, self._prompt)

    @property
    def decision(self) -> Decision:
        """Decision by everything that both guards have judged so far."""
        decision = self._first.decision
        for opinion in ([] if self._prompt is None else [self._prompt]) + self._findings:
            decision = combine(decision, opinion.decision)
        return decision

    @property
    def releasable_chars(self) -> int:
        """Characters from the start that both guards have let through, wherever both are asked."""
        return self._releasable_chars

    @property
    def response(self) -> SideResult:
        """Judgement of what was fed so far, the worse of the two guards'."""
        found: SideResult | None = self._first.response
        for opinion in self._findings:
            found = with_opinion(found, opinion)
        assert found is not None
        return found

    async def feed_coroutine(self, piece: Piece) -> list[Event]:
        """Do what `feed` does, as a `GuardCoroutine`; it holds its thread while it waits for the second guard."""
        return await self._judge(partial(self._first.feed_coroutine, piece))

    async def feed_reasoning_coroutine(self, piece: Piece) -> list[Event]:
        """Do what `feed_reasoning` does, as a `GuardCoroutine`."""

        async def judge() -> list[Event]:
            events = await self._first.feed_reasoning_coroutine(piece)
            self._text.reasoning_end = self._text.num_chars
            return events

        return await self._judge(judge)

    async def truncate_coroutine(self, num_chars: int) -> list[Event]:
        """Do what `truncate` does, as a `GuardCoroutine`."""

        async def judge() -> list[Event]:
            events = await self._first.truncate_coroutine(num_chars)
            self._text.truncate(num_chars)
            num_kept = bisect_right(self._asked_ends, num_chars)
            del self._findings[num_kept:], self._asked_ends[num_kept:]
            return events

        return await self._judge(judge, before=ALLOWED)

    async def finish_coroutine(self) -> Result:
        """Do what `finish` does, as a `GuardCoroutine`."""
        with self._calls.calling():
            if self._result is None:
                self._calls.check_finishable()
                await self._first.finish_coroutine()
                self._review(is_final=True)
                self._result = self.so_far()
                self.close()
            return self._result

    def so_far(self) -> Result:
        """Return the result of what was judged, as if the response ended there. Nothing is asked, nothing closed."""
        if self._result is not None:
            return self._result
        found = self._first.so_far()
        response = found.response
        for opinion in self._findings:
            response = with_opinion(response, opinion)
        return replace(found, decision=self.decision, prompt=self.prompt, response=response)

    def cancel(self) -> None:
        """End the call that another thread makes, and every later one; does not wait. Close the stream."""
        self._calls.cancel()
        self._first.cancel()

    def close(self) -> None:
        """Free what the stream holds; does not wait. May be called again."""
        if self._calls.close(is_finished=self._result is not None):
            self._first.close()

    async def _judge(
        self, judge: Callable[[], GuardCoroutine[list[Event]]], *, before: Decision | None = None
    ) -> list[Event]:
        with self._calls.calling():
            self._calls.check_open(is_finished=self._result is not None)
            before = self.decision if before is None else before
            events = await judge()
            self._text.observe(events)
            self._events += [replace(event, decision=combine(before, event.decision)) for event in events]
            self._review(is_final=False)
            found, self._events = self._events, []
            if found:
                found[-1] = replace(found[-1], decision=combine(found[-1].decision, self.decision))
            return found

    def _review(self, *, is_final: bool) -> None:
        """Ask about what needs it, until there is nothing to ask now or nothing more may leave."""
        judged = self._first.releasable_chars
        while not self._is_stopped_by(self._findings):
            may_ask = is_final or self._second.clock() >= self._ask_again_at
            question = self._text.next_question(judged, is_final=is_final, may_ask=may_ask)
            self._releasable_chars = min(self._text.cleared, judged)
            if question is None:
                break
            if self._first.decision.action.severity >= Action.REPLACE.severity:  # no answer could change the decision
                self._text.withdraw()
                break
            if self._ask(question):
                self._text.clear(question)
        self._releasable_chars = min(self._text.cleared, judged)
        self._second.counter.add(judged=self._text.num_parts)
        self._text.num_parts = 0

    def _ask(self, question: Question) -> bool:
        """Ask about a part of the response, and say whether it may be shown."""
        started = self._second.clock()
        try:
            opinion = self._second.ask(
                [*self._context, self._text.message(question.end)],
                policy=self._policy,
                side=Side.RESPONSE,
                targets=RESPONSE_TARGETS,
                is_unsure=question.is_unsure,
                is_flagged=question.is_flagged,
                position=self._text.position_at(question.end),
            )
        except BaseException:
            self._text.withdraw()
            raise
        now = self._second.clock()
        self._ask_again_at = now + (now - started)
        self._findings.append(opinion)
        self._asked_ends.append(question.end)
        return opinion.decision.action.severity < Action.REPLACE.severity

    @staticmethod
    def _is_stopped_by(findings: Sequence[SecondOpinion]) -> bool:
        return any(each.decision.action.severity >= Action.REPLACE.severity for each in findings)
