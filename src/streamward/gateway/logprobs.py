"""Log probabilities repeat text. They pass only where they spell the text beside them, and leave with it."""

import math
from typing import Literal

from streamward.gateway.strict_json import JsonObject

Opaque = Literal["drop", "block", "pass"]
LEAST = -9999.0
"""Stands for a log probability that JSON has no number for, as OpenAI does for tokens that are very unlikely."""


def keep_spelled(entries: object, text: object, *, opaque: Opaque) -> list[object] | None:
    """Return the entries of a text, one per token, as far as they spell it; None if they are not entries.

    Of the alternatives only the token said is left, unless what cannot be judged passes.
    """
    if not isinstance(entries, list):
        return None
    left = _spelling(text) if isinstance(text, str) else b""
    kept: list[object] = []
    for entry in entries:
        spelled = _entry_spelling(entry)
        if not spelled or not left.startswith(spelled):
            continue
        left = left[len(spelled) :]
        kept.append(_cleaned(entry, spelled, opaque=opaque))
    return kept


def keep_spelled_columns(columns: object, text: object, *, opaque: Opaque) -> JsonObject | None:
    """Do the same for the columns of text completions: all of them, or None if the tokens do not spell the text."""
    tokens = columns.get("tokens") if isinstance(columns, dict) else None
    if not isinstance(columns, dict) or not isinstance(tokens, list):
        return None
    if not all(isinstance(token, str) for token in tokens) or "".join(tokens) != text:
        return None
    alternatives = columns.get("top_logprobs")
    kept: JsonObject = {"tokens": tokens}
    for name in ("token_logprobs", "text_offset"):
        values = columns.get(name)
        if isinstance(values, list) and all(value is None or _is_number(value) for value in values):
            kept[name] = [_finite(value) for value in values]
    if isinstance(alternatives, list) and len(alternatives) == len(tokens):
        kept["top_logprobs"] = [
            _numbers(each) if opaque == "pass" else _numbers(each, only=token)
            for each, token in zip(alternatives, tokens, strict=True)
        ]
    return kept


def _cleaned(entry: JsonObject, spelled: bytes, *, opaque: Opaque) -> JsonObject:
    cleaned: JsonObject = {"token": spelled.decode("utf-8", "replace")}
    if "logprob" in entry:
        cleaned["logprob"] = _logprob(entry["logprob"])
    if "bytes" in entry:
        cleaned["bytes"] = list(spelled)
    others = entry.get("top_logprobs")
    if isinstance(others, list):
        if opaque == "pass":
            cleaned["top_logprobs"] = [_with_logprob(other) for other in others]
        else:
            same = [other for other in others if isinstance(other, dict) and _entry_spelling(other) == spelled]
            cleaned["top_logprobs"] = [
                {name: value for name, value in {**other, **cleaned}.items() if name in ("token", "logprob", "bytes")}
                for other in same
            ]
    return cleaned


def _with_logprob(entry: object) -> object:
    if isinstance(entry, dict) and "logprob" in entry:
        return {**entry, "logprob": _logprob(entry["logprob"])}
    return entry


def _entry_spelling(entry: object) -> bytes:
    if not isinstance(entry, dict):
        return b""
    values = entry.get("bytes")
    if isinstance(values, list) and all(type(value) is int and 0 <= value < 256 for value in values):
        return bytes(values)
    token = entry.get("token")
    return _spelling(token) if isinstance(token, str) else b""


def _spelling(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _numbers(each: object, *, only: str | None = None) -> object:
    if not isinstance(each, dict):
        return None
    return {name: _finite(value) for name, value in each.items() if _is_number(value) and only in (None, name)}


def _logprob(value: object) -> object:
    """Return a log probability that is a number: many servers write null where there is none."""
    return _finite(value) if _is_number(value) else LEAST


def _finite(value: object) -> object:
    return value if not isinstance(value, float) or math.isfinite(value) else LEAST


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def drop_logprobs(value: object) -> None:
    """Take out all log probabilities within a JSON value: what they spell is not what it says any more."""
    if isinstance(value, list):
        for each in value:
            drop_logprobs(each)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == "logprobs" and inner is not None:
                value[name] = [] if isinstance(inner, list) else None
            else:
                drop_logprobs(inner)
