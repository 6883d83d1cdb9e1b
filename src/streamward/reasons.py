"""Reasons for failures outside, in our words: libraries' own texts may contain addresses, keys or the text judged."""

import json
import traceback
from collections.abc import Mapping
from pathlib import Path

_BY_NAME: Mapping[str, str] = {  # names of httpx's and other errors, found along the order of their classes
    "ConnectTimeout": "nothing answers at its address",
    "TimeoutException": "it does not answer in time",
    "ConnectError": "nothing answers at its address",
    "NetworkError": "the connection broke",
    "ProtocolError": "the connection broke, or it does not speak HTTP",
    "InvalidURL": "its address is no URL",
    "UnsupportedProtocol": "its address must begin with http:// or https://",
    "DecodingError": "its answer cannot be decoded",
    "ImportError": "a package is missing, or broken",
    "UnicodeDecodeError": "it is not UTF-8",
    "KeyError": "a key is missing",
    "MemoryError": "there is no memory left",
}


def reason_of(error: BaseException) -> str:
    """Return a few words for an error of the system or of a library, as `no such file or directory`."""
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON from line {error.lineno}, column {error.colno} on"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    named = (_BY_NAME[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _BY_NAME)
    return next(named, "it is damaged, or not what it should be")


def defect(error: BaseException) -> dict[str, str]:
    """Return what may be logged of an error of ours: its class and where it was raised, not its text."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{Path(frame[0].filename).name}:{frame[0].lineno}" if frame else "unknown"
    return {"error_class": type(error).__name__, "where": where}
