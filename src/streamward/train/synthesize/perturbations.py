"""Ways to write a text so that people still read it and filters stumble."""

from collections.abc import Callable
from random import Random

_HOMOGLYPHS = str.maketrans(
    "aceopxyiAEOPCTXBHKM",
    "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456\u0410\u0415\u041e\u0420\u0421\u0422\u0425\u0412\u041d\u041a\u041c",
)
_DIGITS = str.maketrans("aeiostAEIOST", "431057431057")
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_SEPARATORS = (" ", ".", "-", "_", "*", "\u200b")
_ACCENTS = ("\u0301", "\u0308", "\u0302", "\u0323")


def homoglyphs(text: str, rng: Random) -> str:
    """Swap some Latin letters for Cyrillic ones that look alike."""
    return "".join(letter.translate(_HOMOGLYPHS) if rng.random() < 0.6 else letter for letter in text)


def digits(text: str, rng: Random) -> str:
    """Write some letters as the digits they resemble."""
    return "".join(letter.translate(_DIGITS) if rng.random() < 0.7 else letter for letter in text)


def split_words(text: str, rng: Random) -> str:
    """Separate the letters of the longest words."""
    separator = rng.choice(_SEPARATORS)
    words = text.split(" ")
    longest = sorted(range(len(words)), key=lambda index: -len(words[index]))[: rng.randint(1, 3)]
    return " ".join(separator.join(word) if index in longest else word for index, word in enumerate(words))


def split_letters(text: str, rng: Random) -> str:
    """Separate all letters."""
    return rng.choice(_SEPARATORS).join(text)


def full_width(text: str, rng: Random) -> str:
    """Use the wide forms of ASCII, in the whole text or in one half."""
    middle = rng.choice((0, len(text) // 2))
    return text[:middle] + text[middle:].translate(_FULL_WIDTH)


def accents(text: str, rng: Random) -> str:
    """Put marks on some letters."""
    return "".join(
        letter + rng.choice(_ACCENTS) if letter.isalpha() and rng.random() < 0.4 else letter for letter in text
    )


def mixed_case(text: str, rng: Random) -> str:
    """Change case at random."""
    return "".join(letter.upper() if rng.random() < 0.5 else letter.lower() for letter in text)


def line_breaks(text: str, rng: Random) -> str:
    """Put words on lines of their own."""
    return "".join("\n" if letter == " " and rng.random() < 0.6 else letter for letter in text)


PERTURBATIONS: tuple[Callable[[str, Random], str], ...] = (
    homoglyphs,
    digits,
    split_words,
    split_letters,
    full_width,
    accents,
    mixed_case,
    line_breaks,
)
