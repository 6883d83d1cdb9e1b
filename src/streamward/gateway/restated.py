"""The new part of a string that repeats, in every event, its earlier text."""

from typing import NamedTuple

_JOINED_CHARS = 256  # read in sum as pieces that a client appends; past that the string is one text that grows
_NUM_JOINED = 2  # values that are read so in any case


class News(NamedTuple):
    """The part of a value that has to be read.

    Attributes:
        text: What is new in it, to be read behind what was read of the values before.
        seam: Or, where the value is always the same, its end and its beginning, to be read beside it. Once that is
            read, nothing more can come of it.
    """

    text: str
    seam: str = ""


class RestatedText:
    """The values of an unknown string, event by event: pieces that a client appends, or one text that extends itself.

    Which of the two an upstream means is not known. A value that begins with all of the value before is read as what
    comes next of one text, once there is enough of it that nobody would append it to itself; else as a piece.
    """

    def __init__(self) -> None:
        """Expect the first value."""
        self._last: str | None = None
        self._is_constant = True  # True while all values so far are the same
        self._num_repeats = 0  # repetitions of the value
        self._num_read = 0  # characters of the last value that stand at the end of what was read
        self._num_joined = 0  # values read as pieces, of those that begin with one another
        self._joined_chars = 0  # number of characters in these

    def goes_on(self, text: str) -> bool:
        """Return whether a value begins with the one before, or is the first."""
        return self._last is None or text.startswith(self._last)

    def skip(self, text: str) -> None:
        """Take in a value that goes on and is read elsewhere."""
        self._is_constant &= self._last in (None, text)
        self._last = text

    def take(self, text: str) -> News:
        """Take in a value and return what is to be read of it."""
        said, goes_on = self._last or "", self.goes_on(text)
        self.skip(text)
        if self._is_constant and self._num_joined:
            self._num_repeats += 1
            return News("", seam=text[-_JOINED_CHARS:] + text[:_JOINED_CHARS])
        missing = said * min(self._num_repeats, _JOINED_CHARS // len(said)) if self._num_repeats else ""
        self._num_repeats = 0
        if not goes_on:
            self._num_joined = self._joined_chars = 0
        is_one = self._num_joined >= _NUM_JOINED and self._joined_chars > _JOINED_CHARS
        new = text[self._num_read :] if is_one else missing + text
        self._num_read = len(text)
        self._num_joined += not is_one
        self._joined_chars += len(new)
        return News(new)
