"""Finds rows that a benchmark already holds."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from streamward.data.fingerprints import fingerprint, grams, normalise
from streamward.data.jsonl import source_name
from streamward.data.rows import Row, read_rows

MIN_RESPONSE_CHARS = 120  # "I can't help with that." stands in every set


class Overlap(NamedTuple):
    """The kind of overlap of a row with a benchmark: `same prompt`, `shared n-gram` or `same response`."""

    reason: str
    benchmark: str


class Benchmarks:
    """Texts that must not be learnt: whole prompts, pieces of prompts and long responses, as hashes."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read the benchmark files.

        Raises:
            InputError: A file cannot be read.
        """
        self._names: list[str] = []
        self._prompts: dict[int, int] = {}  # hash -> file
        self._grams: dict[int, int] = {}
        self._responses: dict[int, int] = {}
        for number, path in enumerate(paths):
            self._names.append(source_name(path))
            for _, row in read_rows(path):
                self._add(row, number)

    def __len__(self) -> int:
        """Return the number of different prompts."""
        return len(self._prompts)

    def overlap(self, row: Row) -> Overlap | None:
        """Say what a row shares with a benchmark; None if nothing.

        Args:
            row: Earlier turns of the user in `native.history` are compared too.
        """
        for plain in _prompts(row):
            if (file := self._prompts.get(fingerprint(plain))) is not None:
                return Overlap("same prompt", self._names[file])
            for gram in grams(plain):
                if (file := self._grams.get(fingerprint(gram))) is not None:
                    return Overlap("shared n-gram", self._names[file])
        for plain in _long_response(row):
            if (file := self._responses.get(fingerprint(plain))) is not None:
                return Overlap("same response", self._names[file])
        return None

    def _add(self, row: Row, file: int) -> None:
        for plain in _prompts(row):
            self._prompts.setdefault(fingerprint(plain), file)
            for gram in grams(plain):
                self._grams.setdefault(fingerprint(gram), file)
        for plain in _long_response(row):
            self._responses.setdefault(fingerprint(plain), file)


def _prompts(row: Row) -> list[str]:
    native = row.get("native")
    history = native.get("history") if isinstance(native, dict) else None
    turns = [turn.get("content") for turn in history or () if isinstance(turn, dict) and turn.get("role") == "user"]
    texts = [normalise(text) for text in (row.get("prompt"), *turns) if isinstance(text, str)]
    return [text for text in texts if text]


def _long_response(row: Row) -> list[str]:
    response = row.get("response")
    return [normalise(response)] if isinstance(response, str) and len(response) > MIN_RESPONSE_CHARS else []
