"""Finds the matches of a pattern in a text that grows, so that the cuts change nothing."""

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from streamward.detectors.prefixes import derive

CONTEXT_CHARS = 64
"""Characters before a start that checks and lookbehinds may read; streams keep so many."""


class ScanHit(NamedTuple):
    """A span of the buffer, and what was found there if the scanner finds several kinds."""

    start: int
    end: int
    label: str = ""


class ScanStep(NamedTuple):
    """A scanner's answer about a buffer.

    Attributes:
        hits: Final, in order, not overlapping.
        horizon: Every hit that starts before this place of the buffer has been reported.
    """

    hits: list[ScanHit]
    horizon: int


class Scanner(Protocol):
    """Scans a buffer from a place on. Whatever is cut where, the hits of all steps are those of the whole text."""

    max_chars: int
    """Characters at the end of the buffer that may be undecided, at most."""

    def scan(self, buffer: str, start: int, *, is_end: bool) -> ScanStep:
        """Report the hits from a place on.

        Args:
            buffer: Has `CONTEXT_CHARS` characters before `start`, unless the text begins there.
            start: The horizon of the step before.
            is_end: Whether nothing follows.
        """
        ...


class TextMatch(Protocol):
    """A match of `re` or RE2."""

    def start(self) -> int:
        """Return where it starts."""
        ...

    def end(self) -> int:
        """Return where it ends."""
        ...


class TextPattern(Protocol):
    """A compiled pattern of `re` or RE2."""

    def search(self, text: str, pos: int = ..., endpos: int = ..., /) -> TextMatch | None:
        """Return the leftmost match."""
        ...

    def match(self, text: str, pos: int = ..., endpos: int = ..., /) -> TextMatch | None:
        """Return the match at a place."""
        ...


Check = Callable[[str, int, int], ScanHit | None]
"""Given the buffer and a match of the pattern: what of it is a hit, if any. Reads the match, one character behind it
and `CONTEXT_CHARS` before it."""


class PatternScanner:
    """Hits are matches that pass a check, leftmost first.

    A start is decided as soon as no continuation of the text can change what matches there, or `max_chars` characters
    follow it: a match longer than that is the longest one within them that the pattern prefers.
    """

    def __init__(
        self, pattern: TextPattern, open_start: TextPattern, *, max_chars: int, check: Check | None = None
    ) -> None:
        """Scan with compiled patterns.

        Args:
            pattern: What is looked for.
            open_start: Finds the earliest start from which the text to its end is a prefix of a match, if only the
                empty one at the end.
            max_chars: The window of a start.
            check: Decides which matches are hits; by default all.
        """
        self.max_chars = max_chars
        self._pattern = pattern
        self._open_start = open_start
        self._check = check

    def scan(self, buffer: str, start: int, *, is_end: bool) -> ScanStep:
        """Report the hits from a place on; see `Scanner`."""
        hits: list[ScanHit] = []
        limit = len(buffer) if is_end else self._first_open(buffer, start)
        while (found := self._pattern.search(buffer, start)) is not None and found.start() < limit:
            hit = self._hit(buffer, found)
            if hit is None:
                start = found.start() + 1
                continue
            hits.append(hit)
            start = hit.end
            if start > limit:
                limit = self._first_open(buffer, start)
        return ScanStep(hits, max(limit, start))

    def _first_open(self, buffer: str, start: int) -> int:
        found = self._open_start.search(buffer, max(start, len(buffer) - self.max_chars))
        return len(buffer) if found is None else found.start()

    def _hit(self, buffer: str, found: TextMatch) -> ScanHit | None:
        start, end = found.start(), found.end()
        if end - start > self.max_chars:
            within = self._pattern.match(buffer, start, start + self.max_chars)
            end = start if within is None else within.end()
        if end == start:
            return None
        return ScanHit(start, end) if self._check is None else self._check(buffer, start, end)


def pattern_scanner(pattern: str, check: Check | None = None, *, flags: re.RegexFlag = re.NOFLAG) -> PatternScanner:
    """Return a scanner for a pattern of `re` whose matches are bounded; its own bound is the scanner's."""
    derived = derive(pattern)
    assert derived.max_chars is not None, "built-in patterns are bounded"
    return PatternScanner(
        re.compile(pattern, flags),
        re.compile(f"(?:{derived.prefix})\\Z", flags),
        max_chars=derived.max_chars + 1,
        check=check,
    )
