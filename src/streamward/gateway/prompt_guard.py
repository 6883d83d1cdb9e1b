"""The guard's verdicts on one call: on its prompts, and through field guards on its answer."""

from dataclasses import replace

from streamward.decisions import ALLOWED, combine, decide_error
from streamward.errors import StreamwardError
from streamward.gateway.call_record import GuardedText
from streamward.gateway.field_guard import FieldGuard, as_known
from streamward.gateway.field_router import FieldRouter
from streamward.gateway.guard_streams import GuardStreamFactory
from streamward.gateway.masking import CallMasking
from streamward.gateway.reported_errors import ErrorReport
from streamward.gateway.text_fields import ERROR
from streamward.gateway.wire import Prompt, WireFormat
from streamward.schema import Action, Decision, Side, SideResult


class PromptGuard:
    """Judges the prompts under one policy, and keeps the field guards of the answer."""

    def __init__(self, openings: GuardStreamFactory, wire: WireFormat, *, masking: CallMasking | None = None) -> None:
        """Open nothing yet."""
        self.fields = FieldRouter(openings.reader, opaque=openings.release.opaque_strings, masking=masking)
        self.prompts: list[tuple[SideResult | None, Decision]] = []
        """The result and the decision for each prompt."""
        self.deadline = openings.deadline
        """Deadline for the text that waits for the guard; begun here for each prompt."""
        self.error: StreamwardError | None = None
        """Error for which a prompt could not be judged."""
        self._sentence: FieldGuard | None = None  # reads what the upstream says is wrong
        self._masking = masking
        self._openings = openings
        self._wire = wire
        self._request = wire.request

    async def aclose(self) -> None:
        """Close all streams."""
        await self._openings.aclose()

    async def judge_prompts(self) -> Decision:
        """Judge what the request says, and be ready for the answer."""
        decision = ALLOWED if self._masking is None else self._masking.decision
        for index, prompt in enumerate(self._request.prompts):
            self.deadline.begin()
            judgement, found = await self._judge_prompt(prompt, group=index * self._request.num_choices)
            self.prompts.append((judgement, found))
            decision = combine(decision, found)
            if decision.action.severity >= Action.REPLACE.severity:
                break
        return decision

    async def _judge_prompt(self, prompt: Prompt, *, group: int) -> tuple[SideResult | None, Decision]:
        try:
            stream = await self._openings.stream(prompt.messages)
            judgement, decision = stream.prompt, stream.decision
            if prompt.before_tools:
                judgement, decision = await self._with_earlier(prompt, judgement, decision)
        except Exception as error:  # after any error: a prompt that was not judged must not pass
            self.error = as_known(error)
            decision = decide_error(self._openings.policy, Side.PROMPT, self.error)
            if decision.action.severity < Action.REPLACE.severity:
                self.fields.start(group, await self._openings.reader(group, messages=()))
            return None, decision
        reader = self._openings.reader_of(stream, group, prompt.messages)
        self.fields.start(group, reader)
        if prompt.prefill and decision.action.severity < Action.REPLACE.severity:
            for choice in range(group, group + self._request.num_choices):
                place = await self.fields.append(self._wire.content_of(choice), prompt.prefill)
                await place.reader.judge()
                decision = combine(decision, place.reader.decision)
        return judgement, decision

    async def let_through(self, report: ErrorReport) -> ErrorReport:
        """Return what an upstream says is wrong, without its sentence if the guard does not let that through.

        The sentence is a text of its own: what becomes of it changes nothing of what was decided about the answer.
        """
        if report.message is None:
            return report
        self.deadline.begin()
        self._sentence = reader = await self._openings.reader(ERROR, messages=())
        end = reader.add(report.message, is_reasoning=False) + len(report.message)
        await reader.finish()
        return report if reader.limit >= end else replace(report, message=None)

    def texts(self) -> list[GuardedText]:
        """Return all that was said, by the streams that read it."""
        return [self._text(reader, self._decision_of(reader, group)) for group, reader in self._readers()]

    @property
    def num_tokens(self) -> int:
        """Tokens judged in what was said."""
        return sum(reader.num_tokens for _, reader in self._readers())

    def _readers(self) -> list[tuple[int, FieldGuard]]:
        found = [(group, reader) for group, readers in self.fields.readers.items() for reader in readers]
        return found if self._sentence is None else [*found, (ERROR, self._sentence)]

    def _decision_of(self, reader: FieldGuard, group: int) -> Decision:
        """Return what followed from a text; of the first one of a choice, what was done to the choice."""
        if group == ERROR or reader is not self.fields.readers[group][0]:
            return reader.decision
        done = self.fields.decision_of(group)
        return done if done == reader.decision else replace(done, position=None)  # which counts in another text

    async def _with_earlier(
        self, prompt: Prompt, judgement: SideResult | None, decision: Decision
    ) -> tuple[SideResult | None, Decision]:
        """Judge the user's own last turn too, which results of tools came after; the worse of the two counts."""
        async with self._openings.brief(prompt.before_tools) as earlier:
            if earlier.decision.action.severity > decision.action.severity:
                return earlier.prompt, earlier.decision
            return judgement, decision

    def _text(self, reader: FieldGuard, decision: Decision) -> GuardedText:
        return GuardedText(
            reader.name,
            reader.text if self._masking is None else self._masking.logged(reader.text),
            decision=decision,
            judgement=reader.judgement,
            num_judged_chars=reader.num_judged_chars,
            num_shown_chars=reader.num_shown_chars,
        )
