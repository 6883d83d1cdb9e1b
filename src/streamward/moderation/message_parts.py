"""Parts of messages and items: what of them is text, and what is data that no guard reads."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from streamward.errors import InputError
from streamward.moderation.sealed_fields import SPOKEN_NAMES, is_sealed_name, is_sealed_value

JsonObject = dict[str, object]
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:/@+~=-]{1,128}")
_TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "reasoning": "reasoning",
}
_REASONING = ("thinking", "reasoning", "reasoning_text", "summary_text")
_MEDIA = ("image", "audio", "video", "file", "document", "screenshot")
_MEDIA_PARTS = ("image_url", "input_image", "input_audio", "audio", "video_url", "file", "input_file")
_MEDIA_KEYS = frozenset(
    {"audio", "data", "file", "file_data", "file_id", "file_url", "image", "input_audio", "source", "url", "video"}
    | {f"{kind}_url" for kind in _MEDIA}
)
_ENCODED = re.compile("[A-Za-z0-9+/=_-]+")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
_DATA_URL = re.compile(r"data:[^\s,]*,\S*")
_MIN_DATA_CHARS = 256  # words are shorter


class Content(NamedTuple):
    """The content of a message.

    Attributes:
        text: All but the reasoning.
        reasoning: What it thinks before.
    """

    text: str
    reasoning: str = ""


def read_content(content: object, *, where: str, refusal: str | None) -> Content:
    """Return the text of a message's content: a string, null, or a list of parts.

    Args:
        content: As a client wrote it.
        where: Its place, for errors.
        refusal: What to say of a part that holds data; None leaves such parts out.

    Raises:
        InputError: It is neither, or a part is one the guard does not read.
    """
    if content is None:
        return Content("")
    if isinstance(content, str):
        return Content(content)
    if isinstance(content, Mapping):  # results of tools can be objects
        return Content("" if _is_unread(content, where=where, refusal=refusal) else spelled(content, where))
    if not isinstance(content, list | tuple):
        raise InputError(f"{where} must be a string, null or a list of parts")
    texts: list[str] = []
    thoughts: list[str] = []
    for index, part in enumerate(content):
        found = _read_part(part, where=f"{where}[{index}]", refusal=refusal)
        texts.append(found.text)
        thoughts.append(found.reasoning)
    return Content(joined(texts), joined(thoughts))


def read_unknown(given: Mapping[str, object], *, where: str, refusal: str | None) -> list[str]:
    """Return the text in a value of a kind that is not known; none of it may be what is looked at elsewhere.

    Raises:
        InputError: It holds or names data, which the guard does not read.
    """
    return [] if _is_unread(given, where=where, refusal=refusal) else words_in(given)


def refuse_data(given: Mapping[str, object], *, where: str, refusal: str | None) -> None:
    """Refuse data where text is expected, unless it may pass.

    Raises:
        InputError: There is some.
    """
    if refusal is not None and any(_is_data(text) for text in strings_in(given)):
        raise InputError(f"{where} has data that is not text; {refusal}")


def strings_in(value: object, *, is_spoken: bool = False) -> Iterator[str]:
    """Return all strings in a JSON value, names of entries and what a server has sealed left out.

    Args:
        value: The value.
        is_spoken: Whether its names are the speaker's own, so that nothing in it is sealed.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in (value if is_spoken else _unsealed(value)).items():
            yield from strings_in(each, is_spoken=is_spoken or name in SPOKEN_NAMES)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings_in(each, is_spoken=is_spoken)


def words_in(value: object) -> list[str]:
    """Return all strings in a JSON value that may be text: no names, no data."""
    return [each for each in strings_in(value) if each and not is_identifier(each) and not _is_data(each)]


def spelled(value: object, where: str) -> str:
    """Return a value of a call as text: a string as it is, an object or list as JSON.

    Raises:
        InputError: It is something else.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, Mapping | list | tuple):
        raise InputError(f"{where} must be a string, an object or a list")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def is_identifier(text: str) -> bool:
    """Return whether a string is a name without spaces, of at most 128 characters."""
    return _IDENTIFIER.fullmatch(text) is not None


def joined(texts: Sequence[str]) -> str:
    """Return the texts that say something, a line each."""
    return "\n".join(text for text in texts if text)


def without(given: Mapping[str, object], *names: str) -> JsonObject:
    """Return an object without some of its entries."""
    return {name: value for name, value in given.items() if name not in names}


def _is_unread(given: Mapping[str, object], *, where: str, refusal: str | None) -> bool:
    """Return whether an object passes without being read, for the data in it. Where it may not, it is refused."""
    kind = given.get("type")
    if not (isinstance(kind, str) and any(word in kind for word in _MEDIA)) and not _has_media(given):
        return False
    if refusal is not None:
        raise InputError(f"{where} is not text{_named(kind)}; {refusal}")
    return True


def _read_part(part: object, *, where: str, refusal: str | None) -> Content:
    if isinstance(part, str):
        return Content(part)
    if not isinstance(part, Mapping):
        raise InputError(f"{where} must be an object or a string")
    kind = str(part.get("type", "text"))
    if kind in _TEXTS and _TEXTS[kind] in part:
        said = list(_said(part[_TEXTS[kind]]))
        text = joined([*said, *words_in(without(part, "type", _TEXTS[kind]))])
        return Content("", text) if kind in _REASONING else Content(text)
    if kind == "tool_result":
        content = read_content(part.get("content"), where=f"{where}.content", refusal=refusal)
        return Content(joined([*content, *words_in(without(part, "type", "content"))]))
    if kind == "tool_use":
        call = [str(part.get("name") or ""), spelled(part.get("input"), f"{where}.input")]
        return Content(joined([*call, *words_in(without(part, "type", "name", "input"))]))
    return Content(joined(read_unknown(part, where=where, refusal=refusal)))


def _named(kind: object) -> str:
    """Return the type of a part if it is one of those that everybody writes: others may be anything."""
    return f" ({kind})" if kind in _MEDIA_PARTS else ""


def _said(value: object) -> Iterator[str]:
    """Return all strings where text stands, single words too."""
    if isinstance(value, Mapping):
        value = without(value, "type")
    if isinstance(value, list | tuple):
        for each in value:
            yield from _said(each)
    else:
        yield from strings_in(value)


def _has_media(value: object, name: str = "") -> bool:
    """Return whether there is data, or an address where data is fetched."""
    if isinstance(value, str):
        return bool(value) and (name in _MEDIA_KEYS or _is_data(value) or _ADDRESS.fullmatch(value) is not None)
    if isinstance(value, Mapping):
        return any(_has_media(each, key) for key, each in _unsealed(value).items())
    return isinstance(value, list | tuple) and any(_has_media(each, name) for each in value)


def _unsealed(value: Mapping[str, object]) -> JsonObject:
    """Return an object without what a server has sealed for itself, and nobody else reads."""
    return {name: each for name, each in value.items() if not (is_sealed_name(name, value) and _is_sealed(each))}


def _is_sealed(value: object) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(each, str) and is_sealed_value(each) for each in values)


def _is_data(text: str) -> bool:
    if _DATA_URL.fullmatch(text):
        return True
    return len(text) >= _MIN_DATA_CHARS and _ENCODED.fullmatch(text) is not None
