"""Values that an upstream wants back in the client's next turn and no guard can read: sent sealed, opened on return."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from cryptography.fernet import Fernet, InvalidToken

from streamward.errors import InputError
from streamward.gateway.opaque import UnknownOpaque, is_reference, read_opaque
from streamward.gateway.strict_json import JsonObject
from streamward.moderation.sealed_fields import SEALED_DATA_TYPES, SPOKEN_NAMES, is_sealed_name, is_sealed_value

_PREFIX = "sw1."
_TOKEN = re.compile(r"[A-Za-z0-9_-]+={0,2}")
# Fields of a response that repeat the client's own values.
_ECHOED = SPOKEN_NAMES | {"metadata", "tools", "instructions"}
_READ = frozenset({"content", "refusal", "tool_calls", "function_call", "reasoning", "reasoning_content", "summary"})
_STRUCTURE = frozenset({"type", "id", "index", "format", "status"})
_PLACEHOLDER = "sealed"  # a name: the guard reads none

Holder = JsonObject | list[object]


class Sealed(str):
    """A value that only this service can open."""

    __slots__ = ()


class Aside(NamedTuple):
    """A value that is put aside while the guard's conversation is read from a request."""

    holder: Holder
    key: str | int
    value: object


class StateSeal:
    """Seals for one tenant and one upstream.

    What is sealed cannot be read without the key, and opens only in requests of the same tenant to the same upstream.
    So no text passes in it, neither from the upstream to whoever gets the answer, nor from a client to a model.
    """

    def __init__(self, key: bytes, *, tenant: str, upstream: str) -> None:
        """Derive the key of this tenant and upstream from the deployment's."""
        context = f"{len(tenant)}:{tenant}:{upstream}".encode()
        self._fernet = Fernet(base64.urlsafe_b64encode(hmac.digest(key, context, hashlib.sha256)))
        self._sealed: dict[str, Sealed] = {}  # one value is sealed once in an answer

    def seal(self, body: JsonObject) -> None:
        """Seal the known opaque values in what an upstream says."""
        for holder, key in list(_states(body, skipped=_ECHOED)):
            value = str(holder[key])  # type: ignore[index]  # a key of this holder
            if is_sealed_value(value):
                holder[key] = self._seal(value)  # type: ignore[index]  # as above

    def open(
        self, body: JsonObject, *, unsealed: Literal["drop", "refuse"], unknown: UnknownOpaque
    ) -> tuple[list[Aside], int]:
        """Open the sealed values in the conversation of a request, and put aside what the guard need not read.

        Args:
            body: The request; changed until what is put aside is put back.
            unsealed: What happens to known opaque values that were not sealed here.
            unknown: What happens to other strings that say nothing.

        Returns:
            What was put aside, and how many values were dropped.

        Raises:
            InputError: There is a value that was not sealed here, and that is refused.
        """
        turns = [body[name] for name in ("messages", "input") if isinstance(body.get(name), list)]
        places = [place for turn in turns for place in _states(turn, skipped=SPOKEN_NAMES)]
        found = {value: self._open(value) for value in {_text_at(*place) for place in places}}
        num_dropped = 0
        for holder, key in places:
            value = _text_at(holder, key)
            if found[value] is None and is_sealed_value(value):
                _refuse(key, unsealed)
                holder[key] = ""  # type: ignore[index]  # a key of this holder
                num_dropped += 1
        if num_dropped:
            _prune(turns)  # first, because it moves the items of lists
        asides: list[Aside] = []
        for holder, key in [place for turn in turns for place in _states(turn, skipped=SPOKEN_NAMES)]:
            if (opened := found[_text_at(holder, key)]) is not None:
                asides.append(_put_aside(holder, key, opened, _PLACEHOLDER))
        for turn in turns:
            asides += _put_unread_aside(turn, unknown)
        return asides, num_dropped

    def _seal(self, value: str) -> Sealed:
        if value not in self._sealed:
            self._sealed[value] = Sealed(_PREFIX + self._fernet.encrypt(value.encode()).decode())
        return self._sealed[value]

    def _open(self, value: str) -> str | None:
        """Return what is sealed in a value, or in several that a client has put together; None if not by us."""
        first, *tokens = value.split(_PREFIX)
        if first or not tokens or not all(map(_TOKEN.fullmatch, tokens)):
            return None
        try:
            return "".join(self._fernet.decrypt(token).decode() for token in tokens)
        except InvalidToken:
            return None


def state_seals(key: bytes | None) -> Callable[[str, str], StateSeal]:
    """Return what makes a seal for a tenant and an upstream, from the deployment's key or one of this process."""
    used = secrets.token_bytes(32) if key is None else key
    return lambda tenant, upstream: StateSeal(used, tenant=tenant, upstream=upstream)


def put_back(asides: list[Aside]) -> None:
    """Put back what was put aside."""
    for aside in asides:
        aside.holder[aside.key] = aside.value  # type: ignore[index]  # a key of this holder


def _refuse(key: str | int, unsealed: Literal["drop", "refuse"]) -> None:
    if unsealed == "refuse":
        raise InputError(
            f"{key} contains a value that this gateway did not give to this caller for this upstream; leave it out, or"
            " begin a new conversation (unsealed_state is refuse)"
        )


def _put_unread_aside(turns: object, unknown: UnknownOpaque) -> Iterator[Aside]:
    """Put aside the strings that say nothing, in fields of messages that no format knows.

    References are never cut: results of tools would stand beside no call.
    """
    for holder, key, name in list(_unread(turns)):
        text = _text_at(holder, key)
        how: UnknownOpaque = "judge" if unknown == "drop" and is_reference(name, text) else unknown
        if (found := read_opaque(text, how)) is not None:
            yield _put_aside(holder, key, found.shown, found.judged)


def _text_at(holder: Holder, key: str | int) -> str:
    return str(holder[key])  # type: ignore[index]  # a key of this holder


def _put_aside(holder: Holder, key: str | int, value: str, shown: str) -> Aside:
    holder[key] = shown  # type: ignore[index]  # a key of this holder
    return Aside(holder, key, value)


def _states(value: object, *, skipped: frozenset[str], name: str = "") -> Iterator[tuple[Holder, str | int]]:
    """Find the strings of known opaque fields."""
    entries: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        entries = [(key, each) for key, each in value.items() if key not in skipped]
    elif isinstance(value, list):
        entries = list(enumerate(value))
    for key, each in entries:
        named = key if isinstance(key, str) else name
        if not isinstance(each, str):
            yield from _states(each, skipped=skipped, name=named)
        elif each and is_sealed_name(named, value if isinstance(value, dict) else {}):
            yield value, key  # type: ignore[misc]  # an object or a list, as it has entries


def _unread(turns: object) -> Iterator[tuple[Holder, str | int, str]]:
    """Find the strings in fields of messages that no format knows, each with the name it stands under."""
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and "role" in turn:
            yield from _strings({name: turn for name in turn if name not in _READ})


def _strings(holders: dict[str, JsonObject]) -> Iterator[tuple[Holder, str | int, str]]:
    waiting: list[tuple[Holder, str | int, str]] = [(holder, name, name) for name, holder in holders.items()]
    while waiting:
        holder, key, name = waiting.pop()
        value = holder[key]  # type: ignore[index]  # a key of this holder
        if isinstance(value, str):
            yield holder, key, name
        elif isinstance(value, dict):
            waiting += [(value, each, each) for each in value]
        elif isinstance(value, list):
            waiting += [(value, each, name) for each in range(len(value))]


def _prune(value: object) -> None:
    """Take out what was dropped, and the parts of lists that said nothing else."""
    if isinstance(value, dict):
        for name, each in list(value.items()):
            _prune(each)
            if each == "" and is_sealed_name(name, value):
                del value[name]
    elif isinstance(value, list):
        for each in value:
            _prune(each)
        value[:] = [each for each in value if not _is_husk(each)]


def _is_husk(value: object) -> bool:
    if not isinstance(value, dict) or value.get("type") not in (*SEALED_DATA_TYPES, "reasoning", "compaction"):
        return False
    return not any(each for name, each in value.items() if name not in _STRUCTURE)
