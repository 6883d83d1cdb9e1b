"""Bytes of tokens to text, up to a stop sequence."""

import codecs
from collections.abc import Sequence


class TextWriter:
    """The text of one answer. What could be the beginning of a stop sequence is held back until it is known not to be.

    Half a character is held back too; at the end it becomes U+FFFD.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.is_stopped = False
        """True if a stop sequence was written; nothing follows."""

    def feed(self, data: bytes, *, is_last: bool = False) -> str:
        """Take bytes and return the text that is now certain."""
        if self.is_stopped:
            return ""
        text = self._held + self._decoder.decode(data, is_last)
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return text[: min(found)]
        keep = 0 if is_last else self._num_undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _num_undecided(self, text: str) -> int:
        """Return how many characters at the end may begin a stop sequence."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
