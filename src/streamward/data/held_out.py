"""Splits rows into held-out ones and halves of the rest: the same in every run and on every machine."""

import hashlib
from typing import Literal

from streamward.data.jsonl import Sample


def is_held_out(sample: Sample, *, fraction: float) -> bool:
    """Return whether a row belongs to validation: decided by its group, or its prompt where it has none."""
    return int.from_bytes(_digest(sample)[:4], "big") / 2**32 < fraction


def fold_of(sample: Sample) -> Literal["A", "B"]:
    """Return the half of the rows to which a row belongs; related rows share theirs."""
    return "A" if _digest(sample)[4] % 2 == 0 else "B"


def _digest(sample: Sample) -> bytes:
    key = f"{sample.language}/{sample.group}" if sample.group else (sample.prompt or sample.response or "")
    return hashlib.sha256(key.encode("utf-8", errors="surrogatepass")).digest()
