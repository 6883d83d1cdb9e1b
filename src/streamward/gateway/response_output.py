"""The part of a response that has left, so that a response that is cut short can state it."""

from collections.abc import Mapping

from streamward.gateway.response_events import GROUP, WORDS, field_of, number_of
from streamward.gateway.strict_json import JsonObject
from streamward.gateway.text_fields import FieldKey

_PLACE = ("output_index", "item_id", "content_index")


class ShownOutput:
    """Collects text from events as they leave. Calls and reasoning are not repeated: cut short they are of no use."""

    def __init__(self, own_prefix: str) -> None:
        """Start with nothing shown.

        Args:
            own_prefix: How ids begin that the gateway gives to items.
        """
        self._own_prefix = own_prefix
        self._texts: dict[FieldKey, list[str]] = {}
        self._ids: dict[int, object] = {}
        self._num_items = 0
        self._open: JsonObject | None = None  # where the text of the message stands that has not ended

    @property
    def num_items(self) -> int:
        """Items that have been begun."""
        return self._num_items

    def own_id(self, index: int) -> str:
        """Return the id of an item that the gateway says, or that came without one."""
        return f"{self._own_prefix}{index:02x}"

    def note_event(self, body: JsonObject) -> None:
        """Take in an event that leaves."""
        name = str(body["type"])
        if name == "response.output_text.delta" and isinstance(delta := body.get("delta"), str):
            self._texts.setdefault(field_of(body, *WORDS["response.output_text"][1]), []).append(delta)
            self._open = {name: body.get(name, 0) for name in _PLACE}
        elif name == "response.content_part.added" and isinstance(part := body.get("part"), dict):
            self._open = {name: body.get(name, 0) for name in _PLACE} if part.get("type") == "output_text" else None
        elif name.startswith("response.output_item.") and isinstance(item := body.get("item"), dict):
            self.note_item(item, number_of(body, "output_index"))
            if name.endswith(".done"):
                self._open = None

    def note_item(self, item: Mapping[str, object], index: int) -> None:
        """Take in an item that leaves, with all its text so far."""
        self._num_items = max(self._num_items, index + 1)
        self._ids[index] = item.get("id")
        content = item.get("content")
        for place, part in enumerate(content if isinstance(content, list) else []):
            if item.get("type") == "message" and isinstance(part, dict) and isinstance(part.get("text"), str):
                self._texts[(GROUP, index, "content", place, "text")] = [part["text"]]

    def open_message(self) -> tuple[list[JsonObject], JsonObject]:
        """Return where more text of a message stands, and the events that begin a message if none is open."""
        if self._open is not None:
            return [], self._open
        place: JsonObject = {"output_index": self._num_items}
        item = message([], self.own_id(self._num_items), status="in_progress")
        self._open = {**place, "item_id": item["id"], "content_index": 0}
        self.note_item(item, self._num_items)
        return [
            {"type": "response.output_item.added", **place, "item": item},
            {"type": "response.content_part.added", **self._open, "part": _part("")},
        ], self._open

    def close_message(self, status: str) -> list[JsonObject]:
        """Return the events that end the message which is open; none if none is."""
        if self._open is None:
            return []
        at, self._open = self._open, None
        index = number_of(at, "output_index")
        text = "".join(self._texts.get((GROUP, index, "content", number_of(at, "content_index"), "text"), []))
        item = message([text], at["item_id"], status=status)
        return [
            {"type": "response.output_text.done", **at, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **at, "part": _part(text)},
            {"type": "response.output_item.done", "output_index": index, "item": item},
        ]

    def items(self, status: str = "incomplete") -> list[JsonObject]:
        """Return the messages, as items of an output."""
        parts: dict[int, list[str]] = {}
        for key in sorted(self._texts, key=str):
            text = "".join(self._texts[key])
            if text and isinstance(key[1], int):
                parts.setdefault(key[1], []).append(text)
        return [
            message(texts, self._ids.get(index) or self.own_id(index), status=status)
            for index, texts in sorted(parts.items())
        ]


def message(texts: list[str], item_id: object, *, status: str) -> JsonObject:
    """Return an item that says the texts."""
    content = [_part(text) for text in texts]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
