"""Finds rows that were there before, word for word or nearly."""

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streamward.data.fingerprints import fingerprint, fold, is_unspaced
from streamward.data.jsonl import Sample
from streamward.schema import RiskLevel

SIMILARITY = 0.8
"""Share of pieces in common (Jaccard) from which two texts count as nearly the same."""
_BANDS, _ROWS = 12, 5  # finds 99 % of pairs at 0.8 and 32 % at 0.5, which the signatures then reject
_PRIME = np.uint64((1 << 31) - 1)
_MAX_PIECES = 600
Labels = tuple[RiskLevel | None, RiskLevel | None]
_MIN_PIECES = 8  # of shorter texts one word more or less changes the meaning


class Duplicates:
    """Remembers the rows it was given.

    Near duplicates are found with MinHash signatures and banding (Broder 1997) among rows of one language with the
    same labels: the two sides of a contrastive pair differ in a word, and both are wanted.
    """

    def __init__(self, *, near: bool = True) -> None:
        """Begin with no rows.

        Args:
            near: Whether to look for near duplicates too.
        """
        self._near = near
        self._texts: dict[int, Labels] = {}
        self._bands: dict[int, int] = {}
        self._signatures: list[NDArray[np.uint32]] = []
        rng = np.random.default_rng(0)
        self._factors = rng.integers(1, int(_PRIME), _BANDS * _ROWS, dtype=np.uint64)[:, None]
        self._offsets = rng.integers(0, int(_PRIME), _BANDS * _ROWS, dtype=np.uint64)[:, None]

    def check(self, sample: Sample) -> str | None:
        """Say what a row repeats; one that is new is remembered.

        Returns:
            `duplicate`, `contradiction` (the same text with other labels), `near duplicate`, or None if it is new.
        """
        text = fold(_text(sample))
        key, labels = fingerprint(text), (sample.prompt_label, sample.response_label)
        earlier = self._texts.get(key)
        if earlier is not None:
            return "contradiction" if _disagree(earlier, labels) else "duplicate"
        if self._near and self._is_near(text, kind=f"{sample.language}|{labels}"):
            return "near duplicate"
        self._texts[key] = labels
        return None

    def _is_near(self, text: str, *, kind: str) -> bool:
        pieces = np.fromiter((zlib.crc32(piece.encode("utf-8", "replace")) for piece in _pieces(text)), dtype=np.uint64)
        if len(pieces) < _MIN_PIECES:
            return False
        hashed = (self._factors * (pieces % _PRIME) + self._offsets) % _PRIME
        signature = hashed.min(axis=1).astype(np.uint32)
        keys = [
            zlib.crc32(f"{band}|{kind}".encode()) << 32 | zlib.crc32(part.tobytes())
            for band, part in enumerate(np.split(signature, _BANDS))
        ]
        for key in keys:
            other = self._bands.get(key)
            if other is not None and np.mean(self._signatures[other] == signature) >= SIMILARITY:
                return True
        for key in keys:
            self._bands.setdefault(key, len(self._signatures))
        self._signatures.append(signature)
        return False


def _text(sample: Sample) -> str:
    turns = "\n".join(turn.content for turn in sample.history)
    return f"{turns}\n{sample.prompt}\n{sample.response or ''}"


def _disagree(one: Labels, other: Labels) -> bool:
    return any(None not in pair and pair[0] is not pair[1] for pair in zip(one, other, strict=True))


def _pieces(text: str) -> Iterator[str]:
    """Give overlapping triples of words, or five characters where words are not separated."""
    if is_unspaced(text):
        joined = text.replace(" ", "")[:_MAX_PIECES]
        return (joined[start : start + 5] for start in range(len(joined) - 4))
    words = text.split(" ", _MAX_PIECES)[:_MAX_PIECES]
    return (" ".join(words[start : start + 3]) for start in range(len(words) - 2))
