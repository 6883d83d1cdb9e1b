"""Runs detectors over a text that grows, and settles what overlaps."""

import re
from dataclasses import dataclass

from streamward.detectors.detectors import CompiledDetector, Detectors
from streamward.detectors.finding import DetectorAction
from streamward.detectors.scanning import CONTEXT_CHARS, Scanner
from streamward.detectors.vault import Vault

_PIECE_CHARS = 2048
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SpanEdit:
    """A span that was found, and what is to stand there.

    Attributes:
        start: First character, in the text that was fed.
        end: The character after its last one.
        replacement: What stands there instead; None if the text stays, as for flag and block.
        id: Id of the detector.
        label: What was found.
        action: What is to be done; never `allow`.
    """

    start: int
    end: int
    replacement: str | None
    id: str
    label: str
    action: DetectorAction


@dataclass(slots=True)
class _Source:
    scanner: Scanner
    detector: CompiledDetector
    rank: int
    is_exception: bool
    at: int


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    source: _Source


class FindingStream:
    """Finds spans in a text that comes in pieces; the cuts change nothing.

    The rules for spans that overlap: what lies within a span of a detector whose action is allow, or of an exception
    of its own detector, is no finding. Of what is to be masked, a span within another one goes, of equal ones the
    later table's; a span that begins within another one is cut short at its front. What is to be blocked or flagged is
    always reported.

    At most the sum of the two largest bounds of its detectors is held back.
    """

    def __init__(self, detectors: Detectors, *, vault: Vault | None = None, context: str = "") -> None:
        """Start with an empty text.

        Args:
            detectors: Which to run.
            vault: Numbers the placeholders of style `reversible`.
            context: What stands before the text. It is read, and is itself never found; of a span that begins in it,
                the part in the text counts.
        """
        self._vault = vault
        self._buffer = _SURROGATE.sub("\ufffd", context)
        self._base = -len(context)
        self._sources = []
        for rank, each in enumerate(detectors.all):
            self._sources.append(_Source(each.scanner, each, rank, False, self._base))
            if each.exceptions is not None:
                self._sources.append(_Source(each.exceptions, each, rank, True, self._base))
        self._open: list[_Span] = []  # findings that are not settled yet
        self._allowed: list[_Span] = []
        self._kept: list[_Span] = []  # settled, but not complete before the horizon
        self._masked_to = 0
        self.fed = 0
        """Characters taken in."""
        self.horizon = 0
        """Characters decided, from the start."""

    def feed(self, text: str) -> list[SpanEdit]:
        """Take in what comes next; return the spans that are decided now, in order."""
        edits: list[SpanEdit] = []
        for start in range(0, len(text), _PIECE_CHARS):
            piece = text[start : start + _PIECE_CHARS]
            self.fed += len(piece)
            self._buffer += _SURROGATE.sub("\ufffd", piece)
            edits += self._advance(is_end=False)
        return edits

    def finish(self) -> list[SpanEdit]:
        """Decide the rest: nothing follows."""
        return self._advance(is_end=True)

    def _advance(self, *, is_end: bool) -> list[SpanEdit]:
        for source in self._sources:
            step = source.scanner.scan(self._buffer, source.at - self._base, is_end=is_end)
            source.at = self._base + step.horizon
            self._open += [_Span(self._base + hit.start, self._base + hit.end, source) for hit in step.hits]
        reached = min((source.at for source in self._sources), default=self.fed)
        self._settle(reached)
        horizon = max(0, reached)
        while straddling := [span.start for span in self._kept if span.start < horizon < span.end]:
            horizon = min(straddling)
        done = [span for span in self._kept if span.end <= horizon]
        self._kept = [span for span in self._kept if span.end > horizon]
        edits = [self._edit(span) for span in done]
        self.horizon = max(self.horizon, horizon)
        self._trim(reached)
        return edits

    def _settle(self, reached: int) -> None:
        """Decide about all spans that start before a place that every scanner has reached."""
        ready = sorted(
            (span for span in self._open if span.start < reached),
            key=lambda span: (span.start, -span.end, span.source.rank),
        )
        self._open = [span for span in self._open if span.start >= reached]
        self._allowed += [span for span in ready if _allows(span)]
        for span in ready:
            if _allows(span) or span.end <= 0 or self._is_excepted(span):
                continue
            start = max(span.start, 0)
            if span.source.detector.config.action is DetectorAction.MASK:
                if span.end <= self._masked_to:
                    continue
                start, self._masked_to = max(start, self._masked_to), span.end
            self._kept.append(_Span(start, span.end, span.source))
        self._kept.sort(key=lambda span: (span.start, -span.end, span.source.rank))
        self._allowed = [span for span in self._allowed if span.end > reached]

    def _is_excepted(self, span: _Span) -> bool:
        detector = span.source.detector
        if detector.exception_pattern is not None and detector.exception_pattern.match(self._text(span)) is not None:
            return True
        return any(
            each.start <= span.start
            and span.end <= each.end
            and (not each.source.is_exception or each.source.detector is detector)
            for each in self._allowed
        )

    def _text(self, span: _Span) -> str:
        return self._buffer[span.start - self._base : span.end - self._base]

    def _edit(self, span: _Span) -> SpanEdit:
        detector = span.source.detector
        is_masked = detector.config.action is DetectorAction.MASK
        replacement = detector.replacement(self._text(span), self._vault) if is_masked else None
        config = detector.config
        return SpanEdit(span.start, span.end, replacement, config.name, config.shown_label, config.action)

    def _trim(self, reached: int) -> None:
        """Drop what nobody reads any more."""
        num_done = min(reached, self.horizon) - CONTEXT_CHARS - self._base
        if num_done > 0:
            self._buffer = self._buffer[num_done:]
            self._base += num_done


def _allows(span: _Span) -> bool:
    return span.source.is_exception or span.source.detector.config.action is DetectorAction.ALLOW
