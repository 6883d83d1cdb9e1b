"""Search for the onset of harm: the first token at which a predicate on prefixes holds."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f\u0964\u061f\n][\"'\u201d\u2019)\]]*\s*$")


@dataclass(slots=True)
class Search:
    """One search for an onset.

    Attributes:
        text: The response.
        ends: Where each token ends, in characters.
        is_harmful: Whether a prefix, given by its end, is harmful already; asked once for each.
        num_asked: How many prefixes were asked about.
    """

    text: str
    ends: Sequence[int]
    is_harmful: Callable[[int], bool]
    num_asked: int = 0
    _known: dict[int, bool] = field(default_factory=dict)

    def first(self, *, max_scanned_tokens: int) -> int | None:
        """Return the first token at which the prefix is harmful; None if the whole text is not.

        Halves the sentence ends, then the tokens, as long as more than `max_scanned_tokens` are left between a prefix
        that is not harmful and one that is; asks about the rest one by one. That harm, once begun, stays is assumed
        while halving.
        """
        low, high = -1, len(self.ends) - 1
        if high < 0 or not self._ask(high):
            return None
        sentences = [index for index in range(high) if _SENTENCE_END.search(self.text[: self.ends[index]])]
        while high - low - 1 > max_scanned_tokens:
            between = [index for index in sentences if low < index < high]
            middle = between[len(between) // 2] if between else (low + high) // 2
            low, high = (low, middle) if self._ask(middle) else (middle, high)
        return next((index for index in range(low + 1, high) if self._ask(index)), high)

    def _ask(self, index: int) -> bool:
        if index not in self._known:
            self.num_asked += 1
            self._known[index] = self.is_harmful(self.ends[index])
        return self._known[index]
