"""Text files as people save them: UTF-8 or UTF-16, with or without a byte order mark."""

import codecs
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from itertools import chain
from typing import IO, NamedTuple

from streamward.errors import InputError

HEAD_BYTES = 4
"""Bytes at the beginning of a file that tell its encoding."""
_BLANKS = " \t\n\r\v\f"
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF32_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_MARK = "\ufeff"
_ADVICE = "save the file as UTF-8 or UTF-16 with a byte order mark"


class Line(NamedTuple):
    """One line of a text file.

    Attributes:
        number: From 1, blank lines among them.
        text: Without its line end; None if its bytes are not text.
        problem: Why they are not; None if they are.
    """

    number: int
    text: str | None
    problem: str | None

    @property
    def is_blank(self) -> bool:
        """True if it consists of blanks."""
        return self.text is not None and not self.text.strip(_BLANKS)


def find_encoding(head: bytes) -> str:
    """Return the encoding of a file of JSON or TOML by its first four bytes.

    Both begin with two ASCII characters, neither of them NUL, so that UTF-16 shows without a byte order mark too
    (RFC 4627, section 3).

    Raises:
        InputError: It is UTF-32.
    """
    if head.startswith(_UTF32_MARKS):
        raise InputError(f"the file is UTF-32; {_ADVICE}")
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    return _unmarked(head[:HEAD_BYTES])


def raw_lines(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Cut a file into its lines, each with its line end; together they are the file, byte for byte.

    Args:
        pieces: The file as `IO[bytes]` yields it: cut after each byte 0x0a.
        encoding: From `find_encoding`.
    """
    if encoding == "utf-8":
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    parts: list[str] = []  # bytes of the line that has not ended; pieces may end within a character such as U+0A05
    for piece in pieces:
        first, *others = decoder.decode(piece).split("\n")
        parts.append(first)
        for other in others:
            yield f"{''.join(parts)}\n".encode(encoding, "surrogatepass")
            parts = [other]
    held = "".join(parts)
    half, _ = decoder.getstate()
    if held or half:
        yield held.encode(encoding, "surrogatepass") + half


def read_line(raw: bytes, encoding: str, *, number: int) -> Line:
    """Decode one of the raw lines of a file. A byte order mark at its beginning is left out."""
    try:
        text = raw.decode(encoding, "surrogatepass" if encoding != "utf-8" else "strict")
    except UnicodeDecodeError as error:
        return Line(number, None, _problem(error))
    return Line(number, text.removeprefix(_MARK).removesuffix("\n"), None)


def read_lines(file: IO[bytes] | BufferedIOBase) -> Iterator[Line]:
    """Yield the lines of a file of JSON lines as they arrive, blank ones left out.

    Raises:
        InputError: The file is UTF-32.
    """
    first: list[bytes] = []
    while len(b"".join(first)) < HEAD_BYTES and (piece := file.readline()):
        first.append(piece)
    encoding = find_encoding(b"".join(first))
    for number, raw in enumerate(raw_lines(chain(first, file), encoding), start=1):
        line = read_line(raw, encoding, number=number)
        if not line.is_blank:
            yield line


def decode_structured(data: bytes) -> str:
    """Return the text of a file of JSON or TOML.

    Raises:
        InputError: It is in another encoding; names the line and the byte.
    """
    return _decode(data, find_encoding(data))


def decode_plain(data: bytes) -> str:
    """Return any text. Without a byte order mark only ASCII is taken for UTF-16: every second byte must be NUL.

    Raises:
        InputError: It is in another encoding; names the line and the byte.
    """
    has_mark = data.startswith((*_MARKS, *_UTF32_MARKS))
    return _decode(data, find_encoding(data) if has_mark else _unmarked(data))


def _unmarked(data: bytes) -> str:
    """Return UTF-16 if every second byte is NUL and no other is, else UTF-8."""
    even, odd = data[::2], data[1::2]
    if len(data) >= HEAD_BYTES and len(even) == len(odd):
        if not any(odd) and all(even):
            return "utf-16-le"
        if not any(even) and all(odd):
            return "utf-16-be"
    return "utf-8"


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "surrogatepass" if encoding != "utf-8" else "strict").removeprefix(_MARK)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "ignore")
        raise InputError(f"line {before.count(chr(10)) + 1}: {_problem(error)}") from None


def _problem(error: UnicodeDecodeError) -> str:
    if error.encoding == "utf-8":
        return f"byte {error.object[error.start]:#04x} is not UTF-8; {_ADVICE}"
    return "the file ends within a character of UTF-16; it may have been cut off"
