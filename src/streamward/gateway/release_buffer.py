"""The hold-back of the gateway: holds every part of an answer until the guard has cleared all the text in it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from streamward.errors import OverloadedError
from streamward.gateway.field_router import FieldPosition, FieldRouter
from streamward.gateway.logprobs import drop_logprobs
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import ENVELOPE, FieldKey, Kind, TextField
from streamward.schema import Action, Decision

_LARGE_SHARE = 4  # a chunk is large from this part of the held tokens on


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an answer that leaves as one.

    Attributes:
        body: The event or document; its text stands in the slots.
        slots: Text of the model in it.
        group: The choice it belongs to; None if to none.
        ends_group: Whether the choice ends with it, as far as is known.
        size: Bytes it came in.
    """

    body: JsonObject
    slots: Sequence[TextField] = ()
    group: int | None = None
    ends_group: bool = False
    size: int = 0


@dataclass(frozen=True, slots=True)
class Cutoff:
    """A choice that the guard has stopped.

    Attributes:
        group: The choice.
        decision: Why.
        rest: The chunk in which it was cut, with as much of its text as may be shown; None if that is nothing.
    """

    group: int
    decision: Decision
    rest: Chunk | None


@dataclass(slots=True)
class _HeldChunk:
    chunk: Chunk
    places: Sequence[FieldPosition | None]

    @property
    def is_clear(self) -> bool:
        return all(place is None or place.is_clear for place in self.places)

    @property
    def is_large(self) -> bool:
        """True if it can be split, and has so many tokens that little would be held if it left."""
        place = next(place for place in self.places if place is not None)
        num_tokens = place.reader.num_tokens_in(place.start, place.end)
        return num_tokens > max(1, place.reader.hold_tokens // _LARGE_SHARE) and not _has_logprobs(self.chunk.body)

    def split(self) -> "_HeldChunk":
        """Take the part of a text that need not be held out of the only text in it, and return it as a chunk."""
        index = next(index for index, place in enumerate(self.places) if place is not None)
        slot, place = self.chunk.slots[index], self.places[index]
        assert place is not None
        cut = max(place.start + 1, min(place.reader.limit, place.end))
        before, behind = place.split(cut)
        text = str(slot.holder[slot.key])  # type: ignore[index]  # a key of this holder
        slot.holder[slot.key] = text[: cut - place.start]  # type: ignore[index]  # as above
        body, copied = deepcopy((self.chunk.body, slot))
        slot.holder[slot.key] = text[cut - place.start :]  # type: ignore[index]  # as above
        self.places = [*self.places[:index], behind, *self.places[index + 1 :]]
        return _HeldChunk(Chunk(body, [copied], self.chunk.group), [before])

    @property
    def is_due(self) -> bool:
        """True if all of it is clear, and holding it would hold more tokens than are to be held."""
        places = [place for place in self.places if place is not None]
        return not self.chunk.ends_group and len(places) == 1 and places[0].is_due


@dataclass(slots=True)
class _ChoiceState:
    waiting: deque[_HeldChunk] = field(default_factory=deque)
    is_stopped: bool = False
    end: Chunk | None = None  # chunk that ends the group
    has_left: bool = False  # the end
    is_taken_over: bool = False  # and changed elsewhere
    # Fields that can be cut: their beginning is of use without the end.
    prose: set[FieldKey] = field(default_factory=set)
    has_calls: bool = False  # or other fields that are of use only as a whole

    @property
    def is_over(self) -> bool:
        return self.end is not None


class ReleaseBuffer:
    """Takes chunks in, has their text judged, and hands them out when it is clear. There is no other way out.

    In mode `audit` they are handed out as they come; the text is judged all the same.
    """

    def __init__(
        self,
        fields: FieldRouter,
        *,
        max_held_bytes: int,
        is_audit: bool = False,
        is_document: bool = False,
        may_change: bool = False,
    ) -> None:
        """Start with nothing that waits. In a document, a replacement stands for all of a choice.

        Args:
            fields: Judge the text.
            max_held_bytes: More than that does not wait.
            is_audit: Whether chunks leave as they come.
            is_document: Whether the answer is not streamed.
            may_change: Whether stopped choices may be taken over. Then a chunk leaves as soon as more tokens than are
                to be held would wait with it, not once all of it has so many behind it.
        """
        self._may_change = may_change
        self._fields = fields
        self._is_audit = is_audit
        self._is_document = is_document
        self._max_held_bytes = max_held_bytes
        self._groups: dict[int, _ChoiceState] = {}
        self._common: deque[_HeldChunk] = deque()
        self._held = 0

    def is_complete(self, num_choices: int) -> bool:
        """Return whether so many choices have ended or were stopped, and no other has begun."""
        return len(self._groups) >= num_choices and all(
            group.is_over or group.is_stopped for group in self._groups.values()
        )

    def is_cut(self, num_choices: int) -> bool:
        """Return whether nothing more can leave: all of the choices have ended, at least one by the guard."""
        if _is_final(self._fields.decision_of(ENVELOPE)):
            return True
        cut = {index for index in self._groups if _is_final(self._fields.decision_of(index))}
        cut |= {index for index, group in self._groups.items() if group.is_taken_over}
        over = {index for index, group in self._groups.items() if group.is_over}
        return bool(cut) and len(cut | over) >= num_choices

    def is_end(self, chunk: Chunk) -> bool:
        """Return whether a choice ends with this chunk, now that all of the answer is here."""
        return chunk.group is not None and self._groups[chunk.group].end is chunk

    async def take(self, chunks: Sequence[Chunk]) -> None:
        """Take in what came; nothing is judged yet."""
        for chunk in chunks:
            group = None if chunk.group is None else self._groups.setdefault(chunk.group, _ChoiceState())
            if group is not None and group.is_stopped:
                continue
            places = await self._fields.place_all(chunk.slots)
            if group is not None:
                _note_texts(group, chunk.slots, places)
            self._held += chunk.size
            (self._common if group is None else group.waiting).append(_HeldChunk(chunk, places))
            if chunk.ends_group and group is not None:
                group.end = chunk

    async def judge(self, *, is_end: bool = False) -> None:
        """Judge all that was taken in, together; at the end of the answer, to its end."""
        jobs = []
        if is_end:
            self._fields.finish_masks()
        for readers in self._fields.readers.values():
            for reader in readers:
                if is_end and reader.is_open:
                    jobs.append(reader.finish())
                elif reader.is_waiting:
                    jobs.append(reader.judge())
        if len(jobs) == 1:
            await jobs[0]
        elif jobs:
            await asyncio.gather(*jobs)
        if self._held > self._max_held_bytes:
            self._give_up()
        if not self._may_change:
            await self.finish_stopped()

    async def finish_stopped(self) -> None:
        """Get the judgement of texts that were stopped and stay so."""
        for readers in self._fields.readers.values():
            for reader in readers:
                if reader.is_stopped and reader.is_open:
                    await reader.finish()

    def flagged(self) -> list[int]:
        """Return the choices that the guard has stopped and whose end the client does not know yet."""
        return [
            index
            for index, group in self._groups.items()
            if not group.is_stopped and not group.has_left and _is_final(self._fields.decision_of(index))
        ]

    def changeable_text(self, group: int) -> FieldKey | None:
        """Return the one text that a choice has so far; None if it has none, or others, or calls."""
        state = self._groups[group]
        return next(iter(state.prose)) if len(state.prose) == 1 and not state.has_calls else None

    def take_over(self, group: int) -> None:
        """Drop what waits of a choice, and take in nothing more of it."""
        state = self._groups[group]
        state.is_stopped = state.is_taken_over = True
        while state.waiting:
            self._drop(state.waiting)

    def release(self, *, is_last: bool = False) -> list[Chunk]:
        """Return the chunks that may leave now, in order within each choice.

        Args:
            is_last: Whether ends of choices may leave too. They wait for the end of all, which is recorded first.
        """
        released: list[Chunk] = []
        for index, group in self._groups.items():
            while group.waiting and self._may_leave(group.waiting[0]):
                if not group.waiting[0].is_clear and group.waiting[0].is_large:
                    group.waiting.appendleft(group.waiting[0].split())
                if group.waiting[0].chunk is group.end:
                    if not is_last or _is_final(self._fields.decision_of(index)):
                        break
                    group.has_left = True
                released.append(self._release(group.waiting))
        if not any(group.waiting for group in self._groups.values()):
            while self._common and self._may_leave(self._common[0]):
                released.append(self._release(self._common))
        return released

    def _may_leave(self, waiting: _HeldChunk) -> bool:
        return self._is_audit or waiting.is_clear or (self._may_change and waiting.is_due)

    def _release(self, queue: deque[_HeldChunk]) -> Chunk:
        waiting = queue[0]
        for slot, place in zip(waiting.chunk.slots, waiting.places, strict=True):
            if place is not None:
                place.reader.note_shown(place.end)
                if not self._is_audit:
                    _mask(waiting.chunk, slot, place)
        return self._drop(queue)

    def stops(self) -> list[Cutoff]:
        """Return the choices stopped since the last time. What of them waits is dropped; an end that has left stays."""
        stops = []
        if not self._groups and _is_final(self._fields.decision_of(ENVELOPE)):
            self._groups[0] = _ChoiceState()
        for index, group in self._groups.items():
            decision = self._fields.decision_of(index)
            if group.is_stopped or group.has_left or not _is_final(decision):
                continue
            group.is_stopped = True
            is_replaced = self._is_document and decision.message is not None
            rest = None
            if group.waiting and not is_replaced:
                rest = _cut(group.waiting[0], shows_wholes=self._is_document)
            while group.waiting:
                self._drop(group.waiting)
            stops.append(Cutoff(index, decision, rest))
        return stops

    def _drop(self, queue: deque[_HeldChunk]) -> Chunk:
        chunk = queue.popleft().chunk
        self._held -= chunk.size
        return chunk

    def _give_up(self) -> None:
        """Too much waits for verdicts that do not come: the policy's `on_error` decides."""
        error = OverloadedError(f"more than {self._max_held_bytes} bytes wait for the guard (max_held_bytes)")
        for queue in [self._common, *(group.waiting for group in self._groups.values())]:
            for place in (place for waiting in queue for place in waiting.places):
                for reader in () if place is None else place.unclear_readers():
                    reader.fail(error)


def _is_final(decision: Decision) -> bool:
    return decision.action.severity >= Action.REPLACE.severity


def _mask(chunk: Chunk, slot: TextField, place: FieldPosition) -> None:
    """Write a text as the detectors leave it. Log probabilities would spell what is masked."""
    if slot.is_name or place.mask is None:
        return
    text = str(slot.holder[slot.key])  # type: ignore[index]  # a key of this holder
    masked = place.masked(text)
    if masked != text:
        slot.holder[slot.key] = masked  # type: ignore[index]  # as above
        drop_logprobs(chunk.body)


def _cut(waiting: _HeldChunk, *, shows_wholes: bool) -> Chunk | None:
    """Return a chunk with as much of its text as is clear; None if nothing is left to say.

    Args:
        waiting: The chunk.
        shows_wholes: Whether wholes are shown; in a stream their pieces were.
    """
    chunk, is_worth = waiting.chunk, False
    for slot, place in zip(chunk.slots, waiting.places, strict=True):
        if place is None:
            continue
        if slot.is_name:
            if not place.is_clear and isinstance(slot.holder, dict):
                slot.holder.pop(str(slot.key), None)
            continue
        text = str(slot.holder[slot.key])  # type: ignore[index]  # a key of this holder
        num_before = len(text) - (place.end - place.start)  # of a whole: what pieces said, which has left
        num_clear = num_before + place.limit - place.start
        if num_clear < len(text):
            text = text[:num_clear] if slot.shape.is_cuttable else ""
            slot.holder[slot.key] = text  # type: ignore[index]  # as above
        if text and slot.shape.is_cuttable:
            is_worth = True
            if shows_wholes or slot.kind is not Kind.WHOLE:
                place.reader.note_shown(place.limit)
        _mask(chunk, slot, place)
    return Chunk(deepcopy(chunk.body), group=chunk.group) if is_worth else None


def _note_texts(group: _ChoiceState, slots: Sequence[TextField], places: Sequence[FieldPosition | None]) -> None:
    """Remember which texts a choice has; what is of use as a whole only is held from its start on."""
    for slot, place in zip(slots, places, strict=True):
        if place is None or slot.kind is Kind.UNKNOWN or slot.shape.is_reasoning:
            continue
        if slot.shape.is_cuttable:
            group.prose.add(slot.field)
        else:
            group.has_calls = True
            held = place.reader.held_from
            place.reader.held_from = place.start if held is None else min(held, place.start)


def _has_logprobs(body: JsonObject) -> bool:
    choices = body.get("choices")
    return any(
        isinstance(each, dict) and each.get("logprobs") for each in (choices if isinstance(choices, list) else [body])
    )
