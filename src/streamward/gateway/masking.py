"""A policy's detectors in one call: what the upstream gets of a request, and what the client gets of the answer."""

from collections.abc import Sequence

from streamward.decisions import ALLOWED, combine
from streamward.detectors.detectors import Detectors, compiled
from streamward.detectors.finding import DetectorAction, DetectorFinding, DetectorTarget
from streamward.detectors.json_stream import JsonFindingStream
from streamward.detectors.masker import Masker, mask_text
from streamward.detectors.stream import FindingStream, SpanEdit
from streamward.detectors.vault import Vault
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import FieldKey
from streamward.policy import Policy
from streamward.schema import Action, Decision, Side

_ACTIONS = {DetectorAction.FLAG: Action.FLAG, DetectorAction.BLOCK: Action.BLOCK}
_SAID = frozenset(
    {"content", "text", "prompt", "suffix", "input", "instructions", "reasoning", "reasoning_content", "thinking"}
    | {"refusal", "output", "output_text", "arguments", "summary"}
)
"""Keys of a request whose strings are text."""
_GIVEN = frozenset({"messages", "prompt", "suffix", "input", "instructions"})
_TOOL_RESULTS = frozenset({"tool", "function", "function_call_output", "custom_tool_call_output", "mcp_call"})
_ARGUMENTS = frozenset({"arguments", "input"})


def finding_decision(findings: Sequence[DetectorFinding | SpanEdit], side: Side) -> Decision:
    """Return what follows from what detectors found: the first of the most severe counts; masking allows."""
    decision = ALLOWED
    for each in findings:
        action = _ACTIONS.get(each.action)
        if action is not None:
            decision = combine(decision, Decision(action, side, risk_level=None, detector=each.id))
    return decision


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
        """What follows from what was found so far."""
        return finding_decision(self._edits, Side.RESPONSE)

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
        detectors = compiled(policy.detectors)
        self._vault = Vault()
        self._request = {target: detectors.for_target(target) for target in DetectorTarget}
        self.decision = ALLOWED
        """What follows from what was found in the request."""
        if detectors:
            for name in _GIVEN & body.keys():
                body[name] = self._value(body[name], DetectorTarget.PROMPT, name)
        self._answer = {target: each.restoring(self._vault) for target, each in self._request.items()}

    @property
    def is_blocked(self) -> bool:
        """Whether the request must not be answered."""
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

    def _value(self, value: object, target: DetectorTarget, name: str) -> object:
        if isinstance(value, str):
            return self._text(value, target, is_json=name == "arguments") if name in _SAID else value
        if isinstance(value, list):
            return [self._value(each, target, name) for each in value]
        if isinstance(value, dict):
            if value.get("role") in _TOOL_RESULTS or value.get("type") in _TOOL_RESULTS:
                target = DetectorTarget.TOOL_RESULT
            return {key: self._value(each, _target(target, key, value), key) for key, each in value.items()}
        return value

    def _text(self, text: str, target: DetectorTarget, *, is_json: bool) -> str:
        detectors = self._request[target]
        if not detectors:
            return text
        masker = Masker(detectors, vault=self._vault, is_json=is_json)
        first, rest = masker.feed(text), masker.finish()
        self.decision = combine(self.decision, finding_decision(first.findings + rest.findings, Side.PROMPT))
        return first.text + rest.text


def _target(target: DetectorTarget, key: str, holder: JsonObject) -> DetectorTarget:
    """Return what a value is: arguments are a call's, also where its result stands beside them."""
    is_call = key == "arguments" or (key == "input" and "content" not in holder)
    return DetectorTarget.TOOL_ARGUMENTS if is_call else target
