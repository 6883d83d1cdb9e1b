"""Chooses the tokens of a long response that are read together."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Windows:
    """Overlapping windows over the tokens of a response behind a fixed context.

    Window k holds response tokens from k * stride on; it judges those that no earlier window reached. Which window
    judges a token depends on its position alone, so it does not matter how the text was cut.

    Attributes:
        size: Response tokens a window holds.
        overlap: Tokens of the window before that are read again as context.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        assert 0 <= self.overlap < self.size

    @property
    def stride(self) -> int:
        """Tokens between the starts of two windows."""
        return self.size - self.overlap

    def index(self, position: int) -> int:
        """Return the window that judges the token at a position."""
        return max(0, (position - self.overlap) // self.stride)

    def start(self, index: int) -> int:
        """Return the position of a window's first token."""
        return index * self.stride

    def end(self, index: int) -> int:
        """Return the position after a window's last token."""
        return self.start(index) + self.size
