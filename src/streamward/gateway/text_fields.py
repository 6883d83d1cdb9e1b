"""Places of the model's text in an upstream's JSON. A value that is not known to be harmless structure is text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from streamward.errors import UpstreamError
from streamward.gateway.state_seal import Sealed
from streamward.gateway.strict_json import JsonObject
from streamward.moderation.message_parts import is_identifier

FieldKey = tuple[int | str, ...]
"""A field of the answer that grows: the choice it belongs to, then the path to it."""
ENVELOPE = -1
"""Stands for the choice in fields that belong to none."""
ERROR = -2
"""Stands for the choice of a sentence in which an upstream says what is wrong."""

Holder = JsonObject | list[object]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_MEDIA = re.compile(r"data:(?:image|audio|video)/[\w.+-]+;base64,[A-Za-z0-9+/=_\s-]*")
_NAME_OF = "the name"  # an object, so that no field can have this name


class Kind(Enum):
    """The role that a string states for its field."""

    PIECE = auto()  # the piece that comes next
    WHOLE = auto()  # the whole text so far
    UNKNOWN = auto()  # the same as before, or else the piece that comes next


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the model.

    Attributes:
        is_reasoning: Whether it thinks aloud, before it answers.
        is_cuttable: Whether its beginning is of use without its end.
    """

    is_reasoning: bool = False
    is_cuttable: bool = True


@dataclass(frozen=True, slots=True)
class Each:
    """A list of objects of one shape, told apart by their `index`, or else by their place."""

    shape: "Shape"


class Leaf(Enum):
    """Other values that are known."""

    IDENTIFIER = auto()  # a name without spaces, of at most 128 characters
    OPAQUE = auto()  # data that no guard can read and that is not sealed: media
    CLEANED = auto()  # checked by code of its own
    DROPPED = auto()  # padding


Shape = Text | Each | Leaf | frozenset[str] | Mapping[str, "Shape"] | None
"""Known type of a value; None: unknown. A set of strings: one of these words."""


@dataclass(slots=True)
class TextField:
    """One string of the model at its place.

    Attributes:
        holder: The object or list it is in.
        key: Where in it.
        text: What it says.
        field: Whose text it is.
        kind: What it says of its field.
        shape: What is known of it.
        is_name: Whether it is the key itself, not the value there.
    """

    holder: Holder
    key: str | int
    text: str
    field: FieldKey
    kind: Kind
    shape: Text
    is_name: bool = False


@dataclass(slots=True)
class FieldScanner:
    """Collects the slots of a JSON value, and takes out what may not pass.

    Attributes:
        opaque: What happens to values that cannot be judged.
        kind: Kind of known texts; unknown ones are always `Kind.UNKNOWN`.
        client_strings: Strings of the client, which may be repeated to it.
    """

    opaque: Literal["drop", "block", "pass"]
    kind: Kind = Kind.PIECE
    client_strings: frozenset[str] = frozenset()
    slots: list[TextField] = field(default_factory=list)

    def scan(self, holder: JsonObject, shape: Mapping[str, Shape], *, at: FieldKey, is_said: bool = False) -> None:
        """Go through an object.

        Args:
            holder: Changed where something may not pass.
            shape: What is known of it.
            at: The field it stands for.
            is_said: Whether it stands where text does, so that its names are the model's words too.

        Raises:
            UpstreamError: It has what cannot be judged, and that blocks.
        """
        for name in list(holder):
            if name not in shape and _NAME.fullmatch(name) is None:
                del holder[name]
                continue
            self._value(holder, name, shape.get(name), (*at, name), is_said=is_said)
            if is_said:
                words = Text(is_cuttable=False)
                self.slots.append(
                    TextField(holder, name, name, (*at, name, _NAME_OF), Kind.UNKNOWN, words, is_name=True)
                )

    def _value(self, holder: Holder, key: str | int, shape: Shape, at: FieldKey, *, is_said: bool = False) -> None:
        value = holder[key]  # type: ignore[index]  # a key of this holder
        if value is None or isinstance(value, bool | int | float) or shape is Leaf.CLEANED:
            return
        if isinstance(value, str):
            self._string(holder, key, value, shape, at)
        elif isinstance(value, dict) and isinstance(shape, Mapping):
            self.scan(value, shape, at=at)
        elif isinstance(value, list) and isinstance(shape, Each):
            for place, item in enumerate(value):
                self._value(value, place, shape.shape, (*at, _index(item, place)))
        elif shape is Leaf.OPAQUE:
            self._take_out(holder, key)
        else:
            self._unknown(holder, key, at, is_said=is_said or isinstance(shape, Text))

    def _string(self, holder: Holder, key: str | int, value: str, shape: Shape, at: FieldKey) -> None:
        if (
            not value
            or isinstance(value, Sealed)
            or value in self.client_strings
            or (shape is Leaf.IDENTIFIER and is_identifier(value))
        ):
            return
        if isinstance(shape, frozenset) and value in shape:
            return
        if shape in (Leaf.OPAQUE, Leaf.DROPPED) or (shape is None and _MEDIA.fullmatch(value) is not None):
            self._take_out(holder, key, is_padding=shape is Leaf.DROPPED)
        elif isinstance(shape, Text):
            self.slots.append(TextField(holder, key, value, at, self.kind, shape))
        else:
            self.slots.append(TextField(holder, key, value, at, Kind.UNKNOWN, Text(is_cuttable=False)))

    def _unknown(self, holder: Holder, key: str | int, at: FieldKey, *, is_said: bool) -> None:
        value = holder[key]  # type: ignore[index]  # a key of this holder
        if isinstance(value, dict):
            self.scan(value, {}, at=at, is_said=is_said)
        elif isinstance(value, list) and value and all(isinstance(item, int | float) for item in value):
            self._take_out(holder, key)  # numbers in a row may spell anything
        elif isinstance(value, list):
            for place, item in enumerate(value):
                if isinstance(item, int | float):  # numbers between other values may, too
                    self._take_out(value, place)
                else:  # the reader joins the parts of a text
                    self._value(value, place, None, at if is_said else (*at, place), is_said=is_said)

    def _take_out(self, holder: Holder, key: str | int, *, is_padding: bool = False) -> None:
        if is_padding or self.opaque == "drop":
            holder[key] = None  # type: ignore[index]  # a key of this holder
        elif self.opaque == "block":
            raise UpstreamError("the upstream sent data that no guard can read (unjudged_output is block)")


def _index(item: object, place: int) -> int:
    index = item.get("index") if isinstance(item, dict) else None
    return index if type(index) is int else place
