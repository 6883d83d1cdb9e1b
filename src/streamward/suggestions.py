"""The known name nearest to one that is unknown."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(given: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the known name nearest to the one given, or an empty string.

    Only names that are known are repeated: what was given may be anything.
    """
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(given.lower(), by_lower, n=1, cutoff=0.65)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
