"""Strings that say nothing to anybody who reads them: long runs of base64 or hexadecimal digits."""

import base64
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

UnknownOpaque = Literal["drop", "judge", "pass"]
"""Treatment of such runs in unknown fields."""

_MIN_CHARS = 100
_MAX_REFERENCE_CHARS = 512
_RUN = re.compile(r"[A-Za-z0-9+/=_-]{32,}(?:\r?\n[A-Za-z0-9+/=_-]{32,})*")  # base64 may be wrapped into lines
_WORD = re.compile(r"[A-Z]?[a-z]{3,}|[A-Z]{4,}")
_VOWELS = frozenset("aeiouAEIOU")
_MIN_WORD_SHARE = 0.5  # of the characters: 0.2 of random base64, 0.9 of words that are joined
_MIN_VOWEL_SHARE = 0.26  # of the words' characters: 0.19 of random letters, 0.35 and more of words
_MIN_CHARACTERS = 8  # different ones: rules and digits of one kind are cheap to read
_READABLE = re.compile(r"[^\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]{8,}")


class OpaqueText(NamedTuple):
    """A string with such runs.

    Attributes:
        shown: What of it may leave.
        judged: What of it must be judged.
    """

    shown: str
    judged: str


def read_opaque(text: str, how: UnknownOpaque) -> OpaqueText | None:
    """Return what becomes of a string with runs that say nothing; None if it has none.

    Runs that may be words without blanks are none of these: they are text. With `judge`, what a run says in base64 or
    hexadecimal digits is judged.
    """
    runs = [found.span() for found in _RUN.finditer(text) if _says_nothing(found.group())]
    if not runs:
        return None
    kept, start = [], 0
    for first, end in runs:
        kept.append(text[start:first])
        if how == "judge":
            kept += ["\n", *(f"{said}\n" for said in _decoded(text[first:end]))]
        start = end
    judged = "".join([*kept, text[start:]])
    return OpaqueText(judged if how == "drop" else text, judged)


def is_reference(name: str, text: str) -> bool:
    """Return whether a string is called what references are called: whoever gets it needs all of it."""
    return (name == "id" or name.endswith("_id")) and len(text) <= _MAX_REFERENCE_CHARS


def _says_nothing(run: str) -> bool:
    if len(run) < _MIN_CHARS or len(set(run)) < _MIN_CHARACTERS:
        return False
    words = "".join(_WORD.findall(run))
    if len(words) < _MIN_WORD_SHARE * len(run):
        return True
    return sum(character in _VOWELS for character in words) < _MIN_VOWEL_SHARE * len(words)


def _decoded(run: str) -> Iterator[str]:
    """Return what is readable of a run, wherever in it the digits of the first byte are."""
    digits = re.sub(r"[\r\n=]", "", run).replace("-", "+").replace("_", "/")
    found = [base64.b64decode(digits[at : len(digits) - (len(digits) - at) % 4]) for at in range(4)]
    if re.fullmatch(r"[0-9A-Fa-f]+", digits):
        found += [bytes.fromhex(digits[at : len(digits) - (len(digits) - at) % 2]) for at in range(2)]
    for data in found:
        yield from _READABLE.findall(data.decode("utf-8", "replace"))
