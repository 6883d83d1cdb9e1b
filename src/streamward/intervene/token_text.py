"""An answer as text and as the tokens that were generated for it."""

from collections.abc import Callable, Sequence

from streamward.errors import ConfigError


class TokenText:
    """Tokens of an answer that is cut and goes on: of what stays they are the generated ones."""

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        """Start empty.

        Args:
            encode: Returns the tokens of a text that nobody generated.
        """
        self.text = ""
        """All of it."""
        self.ids: list[int] = []
        """Its tokens."""
        self._ends: list[int] = []  # ends of these tokens, in characters
        self._encode = encode

    def append(self, ids: Sequence[int], piece: str) -> None:
        """Add tokens, and the text that they and earlier ones say by now."""
        self.text += piece
        self.ids += ids
        self._ends += [len(self.text)] * len(ids)

    def rewind(self, text: str) -> None:
        """Make a text the answer so far."""
        same = num_common(self.text, text)
        num_kept = sum(end <= same for end in self._ends)
        del self.ids[num_kept:]
        del self._ends[num_kept:]
        self.text = self.text[: self._ends[-1] if self._ends else 0]
        if rest := text[len(self.text) :]:
            self.append(self._encode(rest), rest)


def num_common(left: Sequence[object], right: Sequence[object]) -> int:
    """Return how many items two sequences begin with in common."""
    return next(
        (index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )


def check_sampling(max_new_tokens: int, *, temperature: float, top_p: float) -> None:
    """Check the settings of a generator.

    Raises:
        ConfigError: A value is out of range.
    """
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ConfigError("max_new_tokens must be at least 1, temperature at least 0, and top_p from 0 to 1")
