"""Lists of words and phrases, found in time that does not grow with the length of the list."""

import re
from collections.abc import Iterable

from streamward.detectors.scanning import ScanHit, ScanStep

_MAX_SPACES = 4
_SPACE = " "
_WORD_LIKE = re.compile(r"[^\W_]")
_UNSPACED = re.compile(  # scripts that put no spaces between words: Thai to Myanmar, Khmer, kana, Han
    r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class _Node:
    __slots__ = ("is_entry", "next")

    def __init__(self) -> None:
        self.next: dict[str, _Node] = {}
        self.is_entry = False


class WordScanner:
    """Find whole words and phrases of a list, the longest one at each place.

    Letters match in either case, a space up to four characters of white space. A word of a script with spaces between
    words must stand alone. One character more than the longest entry is held back, four for each of its spaces; in
    text without a beginning of an entry at its end, nothing.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        """Look for these; none is blank."""
        self._root = _Node()
        longest = 0
        for entry in entries:
            node = self._root
            for char in _folded(" ".join(entry.split())):
                node = node.next.setdefault(char, _Node())
            node.is_entry = True
            longest = max(longest, len(entry) + (_MAX_SPACES - 1) * entry.count(_SPACE))
        self.max_chars = longest + 1
        starts = {form for char in self._root.next for form in (char, char.upper()) if len(form) == 1}
        self._starts = re.compile(f"[{''.join(map(re.escape, sorted(starts)))}]")

    def scan(self, buffer: str, start: int, *, is_end: bool) -> ScanStep:
        """Report the entries from a place on; see `Scanner`."""
        hits: list[ScanHit] = []
        while (found := self._starts.search(buffer, start)) is not None:
            first = found.start()
            end, is_open = self._longest(buffer, first, is_end=is_end)
            if is_open:
                return ScanStep(hits, first)
            if end is not None:
                hits.append(ScanHit(first, end))
            start = first + 1 if end is None else end
        return ScanStep(hits, len(buffer))

    def _longest(self, buffer: str, start: int, *, is_end: bool) -> tuple[int | None, bool]:
        """Return the end of the longest entry at a place, and whether what follows may still change it."""
        if not _is_boundary(buffer, start):
            return None, False
        node, at, best = self._root, start, None
        while True:
            if node.is_entry and (at < len(buffer) or is_end) and _is_boundary(buffer, at):
                best = at
            if at == len(buffer):
                return best, not is_end and (node.is_entry or bool(node.next))
            char = buffer[at]
            following = node.next.get(_SPACE if char.isspace() else _folded(char))
            if following is None:
                return best, False
            node, at = following, at + 1
            if char.isspace():
                most = at + _MAX_SPACES - 1
                while at < min(most, len(buffer)) and buffer[at].isspace():
                    at += 1


def _folded(text: str) -> str:
    """Return a text in lower case, character by character."""
    return "".join(lower if len(lower := char.lower()) == 1 else char for char in text)


def _is_boundary(text: str, at: int) -> bool:
    """Return whether a word may begin or end before this character."""
    if at in (0, len(text)):
        return True
    before, after = text[at - 1], text[at]
    if _UNSPACED.match(before) or _UNSPACED.match(after):
        return True
    return not (_WORD_LIKE.match(before) and _WORD_LIKE.match(after))
