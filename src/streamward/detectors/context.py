"""Words before a number that say what it is."""

import re

from streamward.detectors.scanning import CONTEXT_CHARS


class ContextWords:
    """Words of which one must stand before a number whose format alone says too little."""

    def __init__(self, *words: str) -> None:
        """Look for these words; a word of an alphabet must stand alone, inflected by at most three letters."""
        spaced = sorted((re.escape(word) for word in words if word[0].isascii() or word[0] < "\u0e00"), key=len)
        others = [re.escape(word) for word in words if not (word[0].isascii() or word[0] < "\u0e00")]
        parts = [rf"(?<![^\W_])(?:{'|'.join(reversed(spaced))})(?:[^\W\d_]{{0,3}})(?![^\W\d_])"] if spaced else []
        self._pattern = re.compile("|".join([*parts, *others]), re.IGNORECASE)

    def stand_before(self, text: str, start: int) -> bool:
        """Return whether one stands within `CONTEXT_CHARS` characters before a place."""
        return self._pattern.search(text, max(0, start - CONTEXT_CHARS), start) is not None
