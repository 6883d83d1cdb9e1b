"""Finds places at which a text may be cut: before a sentence, a list item or a code block, never inside one."""

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)", re.DOTALL)
_MAYBE_FENCE = re.compile(r" {0,3}(?:`{1,2}|~{1,2})")
_SENTENCE_END = re.compile(
    r"[.!?\u2026\u061f\u0964]+[\"'\u2019\u201d\u00bb)\]*_]*(?=\s|\Z)|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d]*|\n+"
)
_NUMBERED = re.compile(r"(?:^|\n)[ \t]*(?:\d{1,3}|[A-Za-z])[.]$")


class CodeBlockScanner:
    """Finds the code block that a growing text is in. Reads each line once, unless the text was cut."""

    def __init__(self) -> None:
        """Expect the beginning of a text."""
        self._line = 0  # first character of the line that has not ended
        self._start: int | None = None  # start of the open block
        self._mark = ""

    def start(self, text: str) -> int | None:
        """Return where the line begins that opens the block which is open at the end; None if none is.

        A line that may still become such a line counts. A block is closed by a line of the same character, at least as
        often (CommonMark 0.31, section 4.5).

        Args:
            text: All of the text, with at least the characters it had before; else make another scanner.
        """
        while (end := text.find("\n", self._line)) >= 0:
            self._take(text[self._line : end])
            self._line = end + 1
        if self._start is not None:
            return self._start
        last = text[self._line :]
        return self._line if _FENCE.match(last) or _MAYBE_FENCE.fullmatch(last) else None

    def _take(self, line: str) -> None:
        fence = _FENCE.match(line)
        if fence is None:
            return
        if self._start is None:
            self._start, self._mark = self._line, fence[1]
        elif fence[1].startswith(self._mark) and not fence[2].strip():
            self._start = None


def code_block_start(text: str) -> int | None:
    """Return where the code block begins that a text ends in; None if it ends in none."""
    return CodeBlockScanner().start(text)


def cut_place(text: str, unsafe: int, *, floor: int) -> int:
    """Return how many characters to keep of a text whose character `unsafe` is the first unsafe one.

    The text is cut behind the last sentence or list item that ends before that character, or before the code block it
    is in; white space before what is dropped is dropped too.

    Args:
        text: All of it.
        unsafe: Index of a character.
        floor: Characters that cannot be dropped any more; at most `unsafe`.

    Returns:
        From `floor` to `unsafe`.
    """
    block = code_block_start(text[:unsafe])
    unsafe = unsafe if block is None else block
    place = 0
    for end in _SENTENCE_END.finditer(text, 0, unsafe):
        if end[0].isspace() or not _continues(text, end):
            place = end.end()
    return max(floor, min(len(text[:place].rstrip()), unsafe))


def _continues(text: str, end: re.Match[str]) -> bool:
    """Return whether the sentence goes on behind what looks like its end: a number of a list, or a small letter."""
    if _NUMBERED.search(text, 0, end.end()) is not None:
        return True
    rest = text[end.end() :]
    if end[0][0] in ".!?" and rest and not rest[0].isspace():
        return True  # a number such as 3.5
    return rest.lstrip(" \t")[:1].islower()
