"""Replacements of masked text, and the vault that restores the originals."""

import hashlib
import hmac
from collections.abc import Mapping

_HASH_CHARS = 12
_KEPT = 4
_LEAST_TO_KEEP = 8


class Vault:
    """The numbered placeholders of one conversation, and what they stand for. Holds personal data; never log it."""

    def __init__(self) -> None:
        """Start with none."""
        self._originals: dict[str, str] = {}
        self._placeholders: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}

    def placeholder(self, label: str, original: str) -> str:
        """Return the placeholder of a text, the same whenever the text is the same: `[EMAIL_1]`."""
        known = self._placeholders.get((label, original))
        if known is not None:
            return known
        number = self._counts[label] = self._counts.get(label, 0) + 1
        placeholder = f"[{label}_{number}]"
        self._placeholders[label, original] = placeholder
        self._originals[placeholder] = original
        return placeholder

    @property
    def originals(self) -> Mapping[str, str]:
        """Texts by placeholder."""
        return self._originals


def keyed_hash(label: str, text: str, key: bytes) -> str:
    """Return `[EMAIL:1f8a0c2b9d3e]`: the first 48 bits of HMAC-SHA-256, equal for equal texts under one key."""
    digest = hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    return f"[{label}:{digest[:_HASH_CHARS]}]"


def last_four(text: str) -> str:
    """Return a text with `*` for letters and digits save the last four; for all of them, if they are fewer than 8."""
    num_chars = sum(char.isalnum() for char in text)
    num_hidden = num_chars if num_chars < _LEAST_TO_KEEP else num_chars - _KEPT
    shown = []
    for char in text:
        if char.isalnum() and num_hidden > 0:
            shown.append("*")
            num_hidden -= 1
        else:
            shown.append(char)
    return "".join(shown)
