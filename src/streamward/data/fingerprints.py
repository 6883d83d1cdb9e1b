"""Texts compared beyond case, spacing and punctuation."""

import re
import unicodedata
from collections.abc import Iterator
from hashlib import blake2b

WORDS_PER_GRAM = 13
CHARS_PER_GRAM = 20  # where words are not separated by spaces
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f]")
_NOT_WORD = re.compile("(?:[^\\w\u2190-\u2bff\U0001f000-\U0001faff]|_)+")  # symbols and emoji say something


def normalise(text: str) -> str:
    """Fold case and compatibility forms, and leave nothing between words but one space: for comparing prompts."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def fold(text: str) -> str:
    """Fold case and spacing only: `x + 1` is not `x - 1`, and wide letters are a perturbation to be learnt."""
    return " ".join(text.casefold().split())


def is_unspaced(text: str) -> bool:
    """Return whether the text is mostly in a script without spaces between words (Chinese, Japanese, Thai)."""
    letters = sum(letter.isalpha() for letter in text)
    return letters > 0 and 2 * len(_UNSPACED.findall(text)) > letters


def grams(text: str) -> Iterator[str]:
    """Give the overlapping pieces that two texts must not share: 13 words, or 20 characters without spaces.

    Args:
        text: Normalised.

    Returns:
        Nothing for a text shorter than one piece: compare it as a whole.
    """
    if is_unspaced(text):
        joined = text.replace(" ", "")
        yield from (joined[start : start + CHARS_PER_GRAM] for start in range(len(joined) - CHARS_PER_GRAM + 1))
    else:
        words = text.split(" ")
        for start in range(len(words) - WORDS_PER_GRAM + 1):
            yield " ".join(words[start : start + WORDS_PER_GRAM])


def fingerprint(text: str) -> int:
    """Return 64 bits that stand for a text; the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())
