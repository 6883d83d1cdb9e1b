"""Runs detectors over JSON source that grows: strings are decoded, and what is masked keeps the JSON valid."""

import json
import re
from collections.abc import Callable
from dataclasses import replace

from streamward.detectors.detectors import Detectors
from streamward.detectors.scanning import CONTEXT_CHARS
from streamward.detectors.stream import FindingStream, SpanEdit
from streamward.detectors.vault import Vault

_PLAIN = re.compile(r'[^"\\]+')
_BARE = re.compile(r'[^"{}\[\],:]+')
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[^u])", re.DOTALL)
_UNFINISHED = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_MAX_BARE_CHARS = 256


class JsonFindingStream:
    """Finds spans in the strings and numbers of JSON source; what stands before a string is its context.

    Spans are given in characters of the source, their replacements as they are written in it. A number in which
    something is masked becomes a string. Source that does not begin as an object, a list or a string is read as text.
    Within a string the detectors' bounds hold, in decoded characters; at its end nothing is held back. A number or word
    outside of strings is held back until it ends, or up to 256 characters.
    """

    def __init__(self, detectors: Detectors, *, vault: Vault | None = None, context: str = "") -> None:
        """Start with an empty source; see `FindingStream`."""
        self._detectors = detectors
        self._vault = vault
        self._before = context[-CONTEXT_CHARS:]
        self._source = ""  # an escape that is cut off waits here
        self._text: FindingStream | None = None  # reads the string that is open
        self._starts: list[int] = []  # places of its characters in the source
        self._bare: FindingStream | None = None
        self._bare_text = ""
        self._bare_start = 0
        self._bare_edits: list[SpanEdit] = []
        self._is_known = False  # True while the text is JSON
        self._plain: FindingStream | None = None  # reads the text if it is not JSON
        self._read = 0
        self.fed = 0
        """Characters of the source taken in."""
        self.horizon = 0
        """Characters of the source decided, from the start."""

    def feed(self, text: str) -> list[SpanEdit]:
        """Take in what comes next; return the spans that are decided now, in order."""
        self.fed += len(text)
        self._source += text
        edits: list[SpanEdit] = []
        if not self._is_known and (first := self._source.lstrip()[:1]):
            self._is_known = True
            self._plain = None if first in '{["' else self._open(self._before)
        if self._plain is not None:
            edits += self._plain.feed(self._source)
            self._source = ""
        while self._source and self._is_known and (step := self._step()) is not None:
            edits += step
        self._note_horizon()
        return edits

    def finish(self) -> list[SpanEdit]:
        """Decide the rest: nothing follows."""
        edits: list[SpanEdit] = []
        if self._plain is not None:
            edits += self._plain.finish()
        if self._text is not None:
            for char in self._source:
                edits += self._take(char, char)
            self._source = ""
            edits += self._placed_all(self._text.finish())
            self._text = None
        edits += self._end_bare()
        self.horizon = self.fed
        return edits

    def _step(self) -> list[SpanEdit] | None:
        """Read one thing of the source; None if its end has not come."""
        if self._text is None:
            return self._step_outside()
        plain = _PLAIN.match(self._source)
        if plain is not None:
            return self._take(plain[0], plain[0])
        if self._source[0] == '"':
            edits = self._placed_all(self._text.finish())
            self._text = None
            self._pass_over('"')
            return edits
        return self._step_escape()

    def _step_escape(self) -> list[SpanEdit] | None:
        if _UNFINISHED.fullmatch(self._source):
            return None
        found = _ESCAPE.match(self._source)
        if found is None:  # the text is not JSON
            return self._take("\\", "\\")
        written = found[0]
        if len(written) == 2:
            return self._take(written, _LETTERS.get(written[1], written[1]))
        code = int(written[2:], 16)
        if 0xD800 <= code < 0xDC00:
            second = self._source[6:12]
            if len(second) < 6 and (not second or _UNFINISHED.fullmatch(second)):
                return None
            low = int(second[2:], 16) if _ESCAPE.fullmatch(second) and second[1] == "u" else 0
            if 0xDC00 <= low < 0xE000:
                pair = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                return self._take(written + second, chr(pair))
        return self._take(written, "\ufffd" if 0xD800 <= code < 0xE000 else chr(code))

    def _step_outside(self) -> list[SpanEdit]:
        bare = _BARE.match(self._source)
        if bare is not None:
            return self._take_bare(bare[0])
        edits = self._end_bare()
        mark = self._source[0]
        if mark == '"':
            self._pass_over('"')
            self._text, self._starts = self._open(self._before), []
        else:
            self._pass_over(mark)
        return edits

    def _take(self, written: str, meant: str) -> list[SpanEdit]:
        """Read characters of a string: as many as are written, or one that is written as an escape."""
        assert self._text is not None, "a string is open"
        self._starts += range(self._read, self._read + len(written)) if len(written) == len(meant) else [self._read]
        self._pass_over(written)
        return self._placed_all(self._text.feed(meant))

    def _placed_all(self, edits: list[SpanEdit]) -> list[SpanEdit]:
        return [self._placed(edit) for edit in edits]

    def _placed(self, edit: SpanEdit) -> SpanEdit:
        end = self._starts[edit.end] if edit.end < len(self._starts) else self._read
        return _moved(edit, self._starts[edit.start], end, _escaped)

    def _take_bare(self, text: str) -> list[SpanEdit]:
        """Read what is outside of strings: a number, a name, white space; or anything, where the source is not JSON."""
        if self._bare is None:
            self._bare, self._bare_text, self._bare_start = self._open(self._before), "", self._read
        self._bare_text += text
        self._pass_over(text)
        self._bare_edits += self._bare.feed(text)
        return self._bare_raw() if len(self._bare_text) > _MAX_BARE_CHARS else []

    def _end_bare(self) -> list[SpanEdit]:
        if self._bare is None:
            return []
        self._bare_edits += self._bare.finish()
        self._bare = None
        written = self._bare_text.strip()
        if _NUMBER.fullmatch(written) and any(edit.replacement is not None for edit in self._bare_edits):
            return self._quoted(written)
        return self._bare_raw()

    def _bare_raw(self) -> list[SpanEdit]:
        edits, self._bare_edits = self._bare_edits, []
        start = self._bare_start
        return [_moved(edit, start + edit.start, start + edit.end, str) for edit in edits]

    def _quoted(self, written: str) -> list[SpanEdit]:
        """Return the edits of a number; the first that masks some of it puts all of it in quotes."""
        first = self._bare_text.index(written)
        edits, self._bare_edits = self._bare_edits, []
        text, at, masks = "", first, [edit for edit in edits if edit.replacement is not None]
        for edit in masks:
            text += f"{self._bare_text[at : edit.start]}{edit.replacement}"
            at = edit.end
        text += self._bare_text[at : first + len(written)]
        start, end = self._bare_start + first, self._bare_start + first + len(written)
        whole = replace(masks[0], start=start, end=end, replacement=json.dumps(text, ensure_ascii=False))
        return [whole, *(replace(edit, start=start, end=end) for edit in edits if edit.replacement is None)]

    def _note_horizon(self) -> None:
        if self._plain is not None:
            self.horizon = self._plain.horizon
        elif self._text is not None:
            at = self._text.horizon
            self.horizon = self._starts[at] if at < len(self._starts) else self._read
        elif self._bare is not None:
            is_long = len(self._bare_text) > _MAX_BARE_CHARS
            self.horizon = self._bare_start + (self._bare.horizon if is_long else 0)
        else:
            self.horizon = self._read

    def _open(self, before: str) -> FindingStream:
        return FindingStream(self._detectors, vault=self._vault, context=before)

    def _pass_over(self, text: str) -> None:
        self._source = self._source[len(text) :]
        self._read += len(text)
        self._before = (self._before + text)[-CONTEXT_CHARS:]


def _moved(edit: SpanEdit, start: int, end: int, write: Callable[[str], str]) -> SpanEdit:
    replacement = None if edit.replacement is None else write(edit.replacement)
    return SpanEdit(start, end, replacement, edit.id, edit.label, edit.action)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
