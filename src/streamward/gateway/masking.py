"""A policy's detectors in one call: what the upstream gets of a request, and what the client gets of the answer."""

from collections.abc import Sequence

from streamward.detectors.detectors import Detectors, compiled
from streamward.detectors.finding import DetectorAction, DetectorTarget
from streamward.detectors.json_stream import JsonFindingStream
from streamward.detectors.masker import mask_text
from streamward.detectors.stream import FindingStream, SpanEdit
from streamward.detectors.vault import Vault
from streamward.gateway.request_masking import RequestMasker
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import FieldKey
from streamward.moderation.detection import finding_decision
from streamward.policy import Policy
from streamward.schema import Action, Decision, Side

_GIVEN = ("messages", "prompt", "suffix", "input", "instructions")
_ARGUMENTS = frozenset({"arguments", "input"})


class FieldMask:
    """The detectors over one field of an answer that grows: how far it is decided, and what stands in it then."""

    def __init__(self, detectors: Detectors, *, is_json: bool) -> None:
        """Start with an empty field."""
        self.is_json = is_json
        self._detectors = detectors
        self._stream = JsonFindingStream(detectors) if is_json else FindingStream(detectors)
        self._start = 0  # of what the stream reads, in the field
        self._is_finished = False
        self._edits: list[SpanEdit] = []
        self._blocked_at: int | None = None

    @property
    def limit(self) -> int:
        """Characters of the field that may leave, as far as the detectors are concerned."""
        decided = self._start + self._stream.horizon
        return decided if self._blocked_at is None else min(decided, self._blocked_at)

    @property
    def decision(self) -> Decision:
        """Decision on everything found so far."""
        return finding_decision(self._edits, Side.RESPONSE)

    @property
    def is_blocked(self) -> bool:
        """True if something was found that must not leave."""
        return self._blocked_at is not None

    def feed(self, text: str) -> None:
        """Take in what comes next in the field; a field that goes on after its end is read as a new text."""
        if self._is_finished:
            self._start += self._stream.fed
            self._stream = JsonFindingStream(self._detectors) if self.is_json else FindingStream(self._detectors)
            self._is_finished = False
        self._note(self._stream.feed(text))

    def finish(self) -> None:
        """Decide the rest: for all that is known, nothing follows."""
        if not self._is_finished:
            self._note(self._stream.finish())
            self._is_finished = True

    def _note(self, edits: Sequence[SpanEdit]) -> None:
        for each in edits:
            start, end = self._start + each.start, self._start + each.end
            self._edits.append(SpanEdit(start, end, each.replacement, each.id, each.label, each.action))
            if each.action is DetectorAction.BLOCK and self._blocked_at is None:
                self._blocked_at = start

    def masked(self, text: str, start: int) -> str:
        """Return a part of the field as it may leave; what stands for a span, stands where the span begins.

        Args:
            text: The part.
            start: Its first character in the field.
        """
        parts, at = [], 0
        for edit in self._edits:
            first, end = edit.start - start, edit.end - start
            if edit.replacement is None or end <= at or first >= len(text):
                continue
            if first >= 0:
                parts += [text[at:first], edit.replacement]
            at = end
        return "".join([*parts, text[at:]])


class CallMasking:
    """Masks a request, and opens masks for the fields of its answer, in which it restores what it masked reversibly."""

    def __init__(self, policy: Policy, body: JsonObject) -> None:
        """Mask a request in place.

        Args:
            policy: Has the detectors.
            body: The request; its texts are changed.
        """
        detectors, vault = compiled(policy.detectors), Vault()
        masker = RequestMasker(detectors, vault)
        for name in _GIVEN if detectors else ():
            if name in body:
                body[name] = masker.mask(body[name], DetectorTarget.PROMPT, name, name)
        self.decision = finding_decision([each.finding for each in masker.findings], Side.PROMPT)
        """Decision on everything found in the request."""
        self._response = detectors.for_target(DetectorTarget.RESPONSE)
        self._answer = {
            target: detectors.for_target(target).restoring(vault)
            for target in (DetectorTarget.RESPONSE, DetectorTarget.TOOL_ARGUMENTS)
        }

    @property
    def masks_answers(self) -> bool:
        """True if anything is looked for in answers."""
        return bool(self._response)

    @property
    def is_blocked(self) -> bool:
        """True if the request must not be answered."""
        return self.decision.action.severity >= Action.REPLACE.severity

    def open(self, key: FieldKey) -> FieldMask | None:
        """Return a mask for a field of the answer; None if nothing is looked for there."""
        is_call = any(name in _ARGUMENTS for name in key)
        detectors = self._answer[DetectorTarget.TOOL_ARGUMENTS if is_call else DetectorTarget.RESPONSE]
        return FieldMask(detectors, is_json=is_call) if detectors else None

    def whole(self, text: str) -> str:
        """Return a string of the answer that is no known text, masked on its own."""
        detectors = self._answer[DetectorTarget.RESPONSE]
        return mask_text(detectors, text).text if detectors else text

    def logged(self, text: str) -> str:
        """Return a text of the answer as a log may keep it: masked, with nothing restored."""
        return mask_text(self._response, text).text if self._response else text
