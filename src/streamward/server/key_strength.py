"""Strength check of admin keys that operators choose themselves."""

import re

from streamward.errors import ConfigError

_MIN_CHARS = 20
_MIN_VARIETY = 8
_ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_ROW_CHARS = 4
_WORDS = re.compile(
    "admin(?:istrator)?|change[-_ ]?(?:me|this|it)|default|demo|dev(?:elopment)?|example|key|letmein|local(?:host)?"
    "|master|pass(?:word|wd|phrase)?|placeholder|prod(?:uction)?|replace[-_ ]?me|root|sample|secret|staging|streamward"
    "|super|test(?:ing)?|token|user|welcome|your|api|xxx+"
)
_REPEATED = re.compile(r"(?P<often>.+?)(?P=often){2,}|(?P<long>.{3,}?)(?P=long)+")


def check_strength(key: str, *, setting: str) -> None:
    """Refuse a key that can be guessed.

    Args:
        key: The key.
        setting: Where it comes from, for the message, which never holds the key.

    Raises:
        ConfigError: It is too short or too uniform.
    """
    counted = _counted(key)
    if len(counted) >= _MIN_CHARS and len(set(counted)) >= _MIN_VARIETY:
        return
    raise ConfigError(
        f"{setting} is too easily guessed: it needs at least {_MIN_CHARS} characters, {_MIN_VARIETY} of them different,"
        " beside well-known words, rows such as 1234 or qwerty, and repetitions. Make one with: openssl rand -hex 32"
    )


def _counted(key: str) -> str:
    """Return what is left of a key without what a guesser tries first."""
    rest = _REPEATED.sub(r"\g<often>\g<long>", _WORDS.sub("", key.lower()))
    for row in _ROWS:
        rest = _without_rows(_without_rows(rest, row), row[::-1])
    return rest


def _without_rows(text: str, row: str) -> str:
    """Cut what follows a row of the alphabet or the keyboard down to its first character."""
    kept: list[str] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and text[start : end + 1] in row:
            end += 1
        is_row = end - start >= _ROW_CHARS
        kept.append(text[start : start + 1] if is_row else text[start:end])
        start = end
    return "".join(kept)
