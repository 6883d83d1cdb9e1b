"""Masks a text, whole or as it grows."""

from dataclasses import dataclass
from typing import Protocol

from streamward.detectors.detectors import Detectors
from streamward.detectors.finding import DetectorAction, DetectorFinding
from streamward.detectors.json_stream import JsonFindingStream
from streamward.detectors.stream import FindingStream, SpanEdit
from streamward.detectors.vault import Vault


class EditSource(Protocol):
    """Finds spans in a growing text, of whatever form."""

    fed: int
    horizon: int

    def feed(self, text: str) -> list[SpanEdit]:
        """Take in what comes next; return the spans that are decided now."""
        ...

    def finish(self) -> list[SpanEdit]:
        """Decide the rest."""
        ...


@dataclass(frozen=True, slots=True)
class Masked:
    """The part of a masked text that is decided.

    Attributes:
        text: The next part of the masked text.
        findings: What was found in it, in order of their starts within each part.
        start: First character of the part in the masked text.
    """

    text: str
    findings: tuple[DetectorFinding, ...]
    start: int = 0

    @property
    def before_block(self) -> str:
        """The part up to the first finding whose action is block."""
        starts = [each.masked_start for each in self.findings if each.action is DetectorAction.BLOCK]
        return self.text[: min(starts) - self.start] if starts else self.text


class Masker:
    """Masks one text that grows. What it has returned is final; all parts together are the same for every cut."""

    def __init__(
        self, detectors: Detectors, *, vault: Vault | None = None, context: str = "", is_json: bool = False
    ) -> None:
        """Start with an empty text.

        Args:
            detectors: Which to run.
            vault: Numbers the placeholders of style `reversible`; without one they have no number.
            context: What stands before the text; see `FindingStream`.
            is_json: Whether the text is JSON source; see `JsonFindingStream`.
        """
        kind = JsonFindingStream if is_json else FindingStream
        self._stream: EditSource = kind(detectors, vault=vault, context=context)
        self._held = ""
        self._released = 0
        self._masked = 0  # number of characters of the masked text returned so far

    @property
    def fed(self) -> int:
        """Characters of the original text taken in."""
        return self._stream.fed

    @property
    def released(self) -> int:
        """Characters of the original text that are decided."""
        return self._released

    def feed(self, text: str) -> Masked:
        """Take in what comes next and return what is decided."""
        self._held += text
        return self._release(self._stream.feed(text))

    def finish(self) -> Masked:
        """Return the rest: nothing follows."""
        return self._release(self._stream.finish())

    def _release(self, edits: list[SpanEdit]) -> Masked:
        start, end = self._released, self._stream.horizon
        text, places = _apply(self._held[: end - start], start, edits)
        findings = tuple(
            DetectorFinding(
                edit.id,
                edit.label,
                edit.action,
                edit.start,
                edit.end,
                self._masked + places.place(edit.start, is_end=False),
                self._masked + places.place(edit.end, is_end=True),
            )
            for edit in edits
        )
        self._held = self._held[end - start :]
        self._released = end
        self._masked += len(text)
        return Masked(text, findings, self._masked - len(text))


@dataclass(frozen=True, slots=True)
class _Places:
    """New places of a text's characters: the masks as (start, end, place of their replacement, its length)."""

    start: int
    masks: list[tuple[int, int, int, int]]

    def place(self, at: int, *, is_end: bool) -> int:
        shift = -self.start
        for start, end, place, size in self.masks:
            if at < start or (at == start and is_end):
                break
            if at == start:
                return place
            if at < end or (at == end and is_end):
                return place + size if is_end else place
            shift = place + size - end
        return at + shift


def _apply(text: str, start: int, edits: list[SpanEdit]) -> tuple[str, _Places]:
    parts: list[str] = []
    masks: list[tuple[int, int, int, int]] = []
    at, size = 0, 0
    for edit in edits:
        if edit.replacement is None:
            continue
        before = text[at : edit.start - start]
        parts += [before, edit.replacement]
        size += len(before)
        masks.append((edit.start, edit.end, size, len(edit.replacement)))
        size += len(edit.replacement)
        at = edit.end - start
    parts.append(text[at:])
    return "".join(parts), _Places(start, masks)


def mask_text(detectors: Detectors, text: str, *, vault: Vault | None = None, context: str = "") -> Masked:
    """Mask a whole text."""
    return _whole(Masker(detectors, vault=vault, context=context), text)


def mask_json(detectors: Detectors, text: str, *, vault: Vault | None = None, context: str = "") -> Masked:
    """Mask JSON source as a whole, such as the arguments of a call; it stays valid."""
    return _whole(Masker(detectors, vault=vault, context=context, is_json=True), text)


def _whole(masker: Masker, text: str) -> Masked:
    first, rest = masker.feed(text), masker.finish()
    return Masked(first.text + rest.text, first.findings + rest.findings)
