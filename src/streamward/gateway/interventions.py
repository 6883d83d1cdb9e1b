"""The choices of one call that are changed in progress."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from streamward.gateway.call_record import ChoiceIntervention
from streamward.gateway.changed_choice import ChangedChoice, ChoiceText, is_final
from streamward.gateway.config import GatewayLimits, ReleaseRules
from streamward.gateway.continuation import ContinuationWriter
from streamward.gateway.continuation_calls import ContinuationCalls, WithinCall
from streamward.gateway.field_guard import FieldGuard
from streamward.gateway.masking import CallMasking
from streamward.gateway.prompt_guard import PromptGuard
from streamward.gateway.release_buffer import Chunk, ReleaseBuffer
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import ENVELOPE, FieldKey
from streamward.gateway.upstream import Upstream
from streamward.gateway.wire import FormatName, WireFormat
from streamward.intervene.generation import MaskText
from streamward.intervene.walk import LadderWalk
from streamward.schema import Decision

T = TypeVar("T")
_MOST_WAITING = 64  # most pieces that wait for the client; then the upstreams wait
_WHOLE_FORMATS = ("response_format", "guided_json", "guided_grammar", "guided_regex", "structured_outputs", "grammar")


class Interventions:
    """Takes flagged choices over and yields what they say instead. Close it: that ends what was begun."""

    def __init__(
        self,
        wire: WireFormat,
        judges: PromptGuard,
        *,
        rules: ReleaseRules,
        calls: ContinuationCalls,
        mask: MaskText | None,
        clock: Callable[[], float],
    ) -> None:
        """Change nothing yet.

        Args:
            wire: Format of the answer.
            judges: Judge the answer.
            rules: Its ladder is gone down for each choice.
            calls: Ask upstreams.
            mask: For the step `mask`, which is passed over without it.
            clock: In seconds.
        """
        self.calls = calls
        """Requests made to upstreams."""
        self._wire = wire
        self._judges = judges
        self._rules = rules
        self._mask = mask
        self._clock = clock
        self._choices: dict[int, ChangedChoice] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pieces: asyncio.Queue[tuple[int, str]] = asyncio.Queue(_MOST_WAITING)
        self._num_read_first = 0
        self._hides_usage = False  # the client did not ask for usage in each event

    @property
    def holds_whole(self) -> bool:
        """True if the answer is to be JSON, or of another grammar, so that its beginning is of no use."""
        body = self._wire.request.body
        text = body.get("text")  # of `/v1/responses`
        asked = text.get("format") if isinstance(text, dict) else None
        given = [asked, *(body.get(name) for name in _WHOLE_FORMATS)]
        return any(each and not (isinstance(each, dict) and each.get("type") == "text") for each in given)

    @property
    def is_active(self) -> bool:
        """True if any choice was taken over."""
        return bool(self._choices)

    @property
    def ended_by(self) -> list[Decision]:
        """The decisions that ended choices."""
        return [choice.decision for choice in self._choices.values() if choice.decision is not None]

    @property
    def records(self) -> Sequence[ChoiceIntervention]:
        """All that was changed, by choice and in order."""
        return [
            ChoiceIntervention(group, record)
            for group, choice in sorted(self._choices.items())
            for record in choice.records
        ]

    def dropped(self, group: int) -> Sequence[str]:
        """Return the texts that were dropped from a choice."""
        return self._choices[group].dropped if group in self._choices else ()

    async def aclose(self) -> None:
        """End what was begun: requests to upstreams and judgements."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def begin(self, buffer: ReleaseBuffer) -> None:
        """Take over the choices that are flagged now and can be changed; the others are stopped as in other modes."""
        for group in buffer.flagged():
            choice = self._changeable(group, buffer)
            if choice is None:
                continue
            key, text, guard = choice
            self._num_read_first += guard.num_tokens
            buffer.take_over(group)
            self._choices[group] = ChangedChoice(
                group,
                text,
                guard,
                walk=LadderWalk(self._rules.ladder),
                calls=self.calls,
                deadline=self._judges.deadline,
                mask=self._mask,
                open_detectors=self._judges.fields.take_mask(key),
                clock=self._clock,
            )
            task = asyncio.create_task(self._run(self._choices[group]))
            self._tasks.add(task)
        await buffer.finish_stopped()

    async def while_waiting(self, work: asyncio.Future[T]) -> AsyncGenerator[list[bytes], None]:
        """Yield events of changed choices until some other work is done."""
        while not work.done():
            if not self._tasks:
                await asyncio.wait([work])
                return
            piece = asyncio.ensure_future(self._pieces.get())
            try:
                waited: list[asyncio.Future[Any]] = [work, piece, *self._tasks]  # Any: of several kinds
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                events = self._events(piece.result()) if piece.done() and not piece.cancelled() else []
                piece.cancel()
            self._reap()
            if events:
                yield events

    async def rest(self) -> AsyncGenerator[list[bytes], None]:
        """Yield events of changed choices until all have ended, save those that end a choice."""
        while self._tasks:
            finished = asyncio.ensure_future(asyncio.wait(self._tasks))
            try:
                async for events in self.while_waiting(finished):
                    yield events
            finally:
                finished.cancel()
            self._reap()
        while not self._pieces.empty():
            yield self._events(self._pieces.get_nowait())

    def ends(self, extra: Callable[[int], JsonObject]) -> list[bytes]:
        """Return the events that end the changed choices.

        Args:
            extra: Gives what is added to a choice.
        """
        events: list[bytes] = []
        for group, choice in sorted(self._choices.items()):
            events += self._wire.end(group, choice.finish_reason, extra=extra(group), usage=self.usage())
        if self.is_active and self._wants_usage:
            events += self._wire.usage(self.usage())
        return events

    def documents(self, others: Sequence[Chunk]) -> list[Chunk]:
        """Return the changed choices of an answer that is not streamed, and the other parts of it."""
        if not self.is_active:
            return list(others)
        for chunk in others:
            if chunk.group is None and "usage" in chunk.body:
                chunk.body["usage"] = self.usage()
        changed = []
        for group, choice in self._choices.items():
            body = self._wire.changed(group, choice.shown, choice.finish_reason, usage=self.usage())
            changed.append(Chunk(body, group=group))
        return [*changed, *others]

    def usage(self) -> JsonObject:
        """Return the tokens of all upstream calls."""
        return self.calls.usage.total(num_read_first=self._num_first())

    def ask_for_usage(self) -> None:
        """Have an upstream that can do so state its tokens with every event, where the client wants to know them."""
        options = self._wire.request.body.get("stream_options")
        if self._wants_usage and self.calls.counts_always and isinstance(options, dict):
            self._hides_usage = not options.setdefault("continuous_usage_stats", False)
            options["continuous_usage_stats"] = True

    def note_usage(self, chunks: Sequence[Chunk]) -> None:
        """Remember what the upstream says of its tokens."""
        for chunk in chunks:
            response = chunk.body.get("response")
            usage = (response if isinstance(response, dict) else chunk.body).get("usage")
            if isinstance(usage, dict):
                self.calls.usage.first = usage
                if self._hides_usage and chunk.group is not None:
                    chunk.body["usage"] = None

    def replaces(self, chunk: Chunk) -> bool:
        """Return whether a chunk does not leave, because what it says of tokens is not all."""
        return self.is_active and chunk.group is None and isinstance(chunk.body.get("usage"), dict)

    def told(self) -> JsonObject:
        """Return what an answer states of it on request."""
        records = self.records
        told: JsonObject = {
            "interventions": [each.told() for each in records],
            "wait_tokens": sum(each.record.wait_tokens for each in records),
        }
        if self.is_active and self.calls.usage.is_estimated(num_read_first=self._num_first()):
            told["usage_is_estimated"] = True
        return {"guard": told}

    @property
    def _wants_usage(self) -> bool:
        options = self._wire.request.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def _num_first(self) -> int:
        others = (
            reader.num_tokens
            for group, readers in self._judges.fields.readers.items()
            if group not in self._choices
            for reader in readers
        )
        return self._num_read_first + sum(others)

    async def _run(self, choice: ChangedChoice) -> None:
        async with aclosing(choice.pieces()) as pieces:
            async for piece in pieces:
                await self._pieces.put((choice.group, piece))
        if choice.decision is not None:
            self._judges.fields.ended[choice.group] = choice.decision

    def _events(self, piece: tuple[int, str]) -> list[bytes]:
        return self._wire.more(*piece)

    def _reap(self) -> None:
        """Let go of tasks that are over; a defect of one is a defect of the call."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()

    def _changeable(self, group: int, buffer: ReleaseBuffer) -> tuple[FieldKey, ChoiceText, FieldGuard] | None:
        """Return which text a flagged choice has, what it says and who judges it; None if it cannot be changed.

        It can where it is one text, flagged within that text by a guard that works: not in reasoning before it, in a
        call of a tool, or beside the choices.
        """
        fields, key = self._judges.fields, buffer.changeable_text(group)
        position = None if key is None else fields.content_start(key)
        if key is None or position is None or is_final(fields.decision_of(ENVELOPE)):
            return None
        guard = position.reader
        others = [reader for reader in fields.readers.get(group, []) if reader is not guard]
        if guard.has_failed or any(reader.is_stopped or reader.has_failed for reader in others):
            return None
        prompt = self._wire.request.prompt_of(group)
        text = fields.text_of(key)
        prefill = len(prompt.prefill) if text.startswith(prompt.prefill) else 0
        start = position.start + prefill
        if guard.clear < start:
            return None
        asked = prompt.messages[-1].content if prompt.messages else ""
        released = max(0, guard.num_shown_chars - start)
        return key, ChoiceText(text[prefill:], start, released, asked, is_whole=self.holds_whole), guard


def open_interventions(
    name: FormatName,
    wire: WireFormat,
    judges: PromptGuard,
    *,
    rules: ReleaseRules,
    upstream: Upstream,
    upstreams: Mapping[str, Upstream],
    limits: GatewayLimits,
    within: WithinCall,
    masking: CallMasking,
    clock: Callable[[], float],
) -> Interventions | None:
    """Return what changes choices of a call in progress; None in other modes than `intervene`.

    Args:
        name: Name of the wire format.
        wire: The request and its answer.
        judges: Judge the answer.
        rules: How its text leaves.
        upstream: The server that answers.
        upstreams: All that are configured, by name.
        limits: Bounds of the answer.
        within: Bounds the time of what is asked.
        masking: The policy's detectors.
        clock: In seconds.
    """
    if rules.mode != "intervene":
        return None
    mask = masking.logged if masking.masks_answers else None
    writer = ContinuationWriter(wire.request, name, upstream.config, render=upstream.render_chat)
    calls = ContinuationCalls(
        wire.request, writer, upstream=upstream, upstreams=upstreams, limits=limits, within=within
    )
    changes = Interventions(wire, judges, rules=rules, calls=calls, mask=mask, clock=clock)
    changes.ask_for_usage()
    return changes
