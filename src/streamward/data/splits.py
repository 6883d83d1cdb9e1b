"""Splits rows so that related ones stay together."""

from collections.abc import Iterator, Mapping

from streamward.data.fingerprints import fingerprint, normalise
from streamward.data.jsonl import Sample


class Groups:
    """Rows that share a contrastive pair or a prompt, and those that share one with them, form one group."""

    def __init__(self) -> None:
        """Begin with no rows."""
        self._parents: dict[int, int] = {}

    def add(self, sample: Sample) -> int:
        """Add a row.

        Returns:
            A key for `root`.
        """
        keys = list(_keys(sample))
        for key in keys:
            self._unite(keys[0], key)
        return keys[0]

    def root(self, key: int) -> int:
        """Return the number of the group that a row's key belongs to: its smallest key, whatever the order of rows."""
        parents = self._parents
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    def _unite(self, one: int, other: int) -> None:
        self._parents.setdefault(one, one)
        self._parents.setdefault(other, other)
        first, second = sorted((self.root(one), self.root(other)))
        self._parents[second] = first


def assign(group: int, fractions: Mapping[str, float], *, seed: int) -> str:
    """Return the split of a group: one of the names, by its fraction, else `train`."""
    place = fingerprint(f"{seed}/{group}") / 2**64
    for name, fraction in fractions.items():
        if place < fraction:
            return name
        place -= fraction
    return "train"


def _keys(sample: Sample) -> Iterator[int]:
    if sample.group:
        yield fingerprint(f"twin/{sample.language}/{sample.group}")  # the prefix decides the split: never change it
    turns = "\n".join(turn.content for turn in sample.history)
    text = f"{turns}\n{sample.prompt}".strip() or sample.response or ""
    yield fingerprint(f"text/{normalise(text)}")
