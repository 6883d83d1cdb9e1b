"""Fields for values that only servers can read: signatures and encrypted reasoning, which clients send back."""

import re
from collections.abc import Mapping

SEALED_NAMES = frozenset(
    {
        "encrypted_content",
        "signature",
        "thought_signature",
        "thoughtSignature",
        "thought_signatures",
        "thoughtSignatures",
    }
)
SEALED_DATA_TYPES = ("reasoning.encrypted", "redacted_thinking")
"""Types of objects whose `data` is such a value."""
SPOKEN_NAMES = frozenset({"arguments", "input", "parameters", "schema"})
"""Names below which all names are the model's or the client's own: no such value stands there."""
_VALUE = re.compile(r"[A-Za-z0-9+/=_.:~|-]+")


def is_sealed_name(name: str, holder: Mapping[str, object]) -> bool:
    """Return whether an entry of an object is called what such values are called."""
    return name in SEALED_NAMES or (name == "data" and holder.get("type") in SEALED_DATA_TYPES)


def is_sealed_value(text: str) -> bool:
    """Return whether a string looks like such a value: blanks, or other characters than they have, make it a text."""
    return _VALUE.fullmatch(text) is not None
