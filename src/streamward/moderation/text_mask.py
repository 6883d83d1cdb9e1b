"""A policy's detectors over one text that grows: how far it is decided, and what stands in it then."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from streamward.detectors.detectors import Detectors
from streamward.detectors.finding import DetectorAction, DetectorFinding
from streamward.detectors.json_stream import JsonFindingStream
from streamward.detectors.masker import mask_text
from streamward.detectors.scanning import CONTEXT_CHARS
from streamward.detectors.stream import FindingStream, SpanEdit
from streamward.moderation.detection import finding_decision
from streamward.schema import Decision, Side


class _Mask(NamedTuple):
    start: int
    end: int
    replacement: str
    place: int  # place of the replacement in the masked text


class TextMask:
    """The detectors over a response, or over one field of it. Places count in all of its text."""

    def __init__(self, detectors: Detectors, *, is_json: bool = False, start: int = 0) -> None:
        """Start with an empty text.

        Args:
            detectors: Which to run.
            is_json: Whether the text is JSON source; see `JsonFindingStream`.
            start: Place of the first character that will be fed.
        """
        self.is_json = is_json
        self.findings: list[DetectorFinding] = []
        """Findings in the order in which they were decided."""
        self._detectors = detectors
        self._stream = self._new_stream()
        self._start = start  # start of the text that the stream reads
        self._is_finished = False
        self._masks: list[_Mask] = []  # in order; they do not overlap
        self._blocked_at: int | None = None

    @property
    def limit(self) -> int:
        """Characters that may leave, as far as the detectors are concerned."""
        decided = self._start + self._stream.horizon
        return decided if self._blocked_at is None else min(decided, self._blocked_at)

    @property
    def decision(self) -> Decision:
        """Decision on everything found so far."""
        return finding_decision(self.findings, Side.RESPONSE)

    @property
    def is_blocked(self) -> bool:
        """True if something was found that must not leave."""
        return self._blocked_at is not None

    def feed(self, text: str) -> None:
        """Take in what comes next; a text that goes on after its end is read as a new one."""
        if self._is_finished:
            self._start += self._stream.fed
            self._stream = self._new_stream()
            self._is_finished = False
        self._note(self._stream.feed(text))

    def finish(self) -> None:
        """Decide the rest: for all that is known, nothing follows."""
        if not self._is_finished:
            self._note(self._stream.finish())
            self._is_finished = True

    def masked(self, text: str, start: int) -> str:
        """Return a part of the text as it may leave; what stands for a span, stands where the span begins.

        Args:
            text: The part.
            start: Its first character.
        """
        parts, at = [], 0
        for mask in self._masks[bisect_left(self._masks, start + 1, key=lambda each: each.end) :]:
            first, end = mask.start - start, mask.end - start
            if first >= len(text):
                break
            if first >= 0:
                parts += [text[at:first], mask.replacement]
            at = end
        return "".join([*parts, text[at:]])

    def if_ended(self, text: str) -> str:
        """Return the whole text as it would be shown if nothing followed.

        Args:
            text: All that was fed, from character 0 on.
        """
        decided = self._start + self._stream.horizon
        before = text[max(0, decided - CONTEXT_CHARS) : decided]
        rest = mask_text(self._detectors, text[decided:], context=before).text
        return self.masked(text[:decided], 0) + rest

    def _new_stream(self) -> FindingStream | JsonFindingStream:
        return JsonFindingStream(self._detectors) if self.is_json else FindingStream(self._detectors)

    def _note(self, edits: Sequence[SpanEdit]) -> None:
        for each in edits:
            if each.replacement is not None:
                start, end = self._start + each.start, self._start + each.end
                self._masks.append(_Mask(start, end, each.replacement, self._place(start, is_end=False)))
        for each in edits:
            start, end = self._start + each.start, self._start + each.end
            places = self._place(start, is_end=False), self._place(end, is_end=True)
            self.findings.append(DetectorFinding(each.id, each.label, each.action, start, end, *places))
            if each.action is DetectorAction.BLOCK and self._blocked_at is None:
                self._blocked_at = start

    def _place(self, at: int, *, is_end: bool) -> int:
        """Return where a character went in the masked text; one within a mask goes to an end of its replacement."""
        for mask in reversed(self._masks):
            if at < mask.start or (at == mask.start and is_end):
                continue
            if at == mask.start:
                return mask.place
            end = mask.place + len(mask.replacement)
            if at < mask.end or (at == mask.end and is_end):
                return end if is_end else mask.place
            return at + end - mask.end
        return at
