"""Finds rows that a benchmark already holds."""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from streamward.data.fingerprints import grams, normalise
from streamward.data.rows import Row, read_rows

MIN_RESPONSE_CHARS = 120  # "I can't help with that." stands in every set


class Benchmarks:
    """What must not be learnt: whole prompts, pieces of prompts and long responses, as hashes."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read the benchmark files.

        Raises:
            InputError: A file cannot be read.
        """
        self._prompts: set[bytes] = set()
        self._grams: set[bytes] = set()
        self._responses: set[bytes] = set()
        for path in paths:
            for _, row in read_rows(path):
                self._add(row)

    def __len__(self) -> int:
        """Return the number of different prompts."""
        return len(self._prompts)

    def overlap(self, row: Row) -> str | None:
        """Say what a row shares with a benchmark: `same prompt`, `shared n-gram`, `same response`, or None.

        Args:
            row: Earlier turns in `native.history` are compared too.
        """
        for text in _prompts(row):
            plain = normalise(text)
            if plain and _hash(plain) in self._prompts:
                return "same prompt"
            if any(_hash(gram) in self._grams for gram in grams(plain)):
                return "shared n-gram"
        response = row.get("response")
        if isinstance(response, str) and len(response) > MIN_RESPONSE_CHARS:
            plain = normalise(response)
            if _hash(plain) in self._responses:
                return "same response"
        return None

    def _add(self, row: Row) -> None:
        for text in _prompts(row):
            plain = normalise(text)
            if plain:
                self._prompts.add(_hash(plain))
                self._grams.update(map(_hash, grams(plain)))
        response = row.get("response")
        if isinstance(response, str) and len(response) > MIN_RESPONSE_CHARS:
            self._responses.add(_hash(normalise(response)))


def _prompts(row: Row) -> list[str]:
    native = row.get("native")
    history = native.get("history") if isinstance(native, dict) else None
    turns = [turn.get("content") for turn in history or () if isinstance(turn, dict) and turn.get("role") == "user"]
    return [text for text in (row.get("prompt"), *turns) if isinstance(text, str)]


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
