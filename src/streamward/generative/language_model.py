"""A causal language model as a Gen guard needs it: logits behind a sequence whose end changes."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TokenSession(Protocol):
    """One sequence with its keys and values; tokens are processed when the logits behind them are asked for."""

    @property
    def length(self) -> int:
        """Tokens so far, processed or not."""
        ...

    def read(self, ids: Sequence[int]) -> None:
        """Append tokens."""
        ...

    def truncate(self, length: int) -> None:
        """Remove tokens from `length` on."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the next token, [vocabulary]."""
        ...


class LanguageModel(Protocol):
    """A causal language model. One session at a time."""

    @property
    def max_positions(self) -> int:
        """Longest sequence."""
        ...

    def session(self, ids: Sequence[int], *, capacity: int) -> TokenSession:
        """Start a sequence.

        Args:
            ids: Its first tokens.
            capacity: Tokens it may grow to.
        """
        ...
