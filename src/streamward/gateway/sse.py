"""Server-sent events, read in any cut and written in one form."""

from dataclasses import dataclass

from streamward.errors import UpstreamError
from streamward.gateway.strict_json import dump

KEEP_ALIVE = b": keep-alive\n\n"
"""Stands for whatever comment an upstream sends: comments are text too, and not passed on."""
DONE = "[DONE]"
_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event.

    Attributes:
        data: Its data lines, joined; None for a comment.
        name: What it is called; `error` also where a line `error:` takes the place of the data.
        is_stray: Whether it is no event at all: JSON that stands in the stream as it is.
    """

    data: str | None
    name: str = ""
    is_stray: bool = False


class EventParser:
    """Cuts bytes into events, wherever the bytes were cut; lines end in LF, CR LF or CR."""

    def __init__(self, max_event_bytes: int) -> None:
        """Expect the beginning of a stream."""
        self._max_event_bytes = max_event_bytes
        self._rest: list[bytes] = []  # beginning of a line that has not ended
        self._rest_size = 0
        self._lines: list[bytes] = []  # data of an event that has not ended
        self._name = ""
        self._stray: list[bytes] = []  # lines of JSON that are no field
        self._size = 0
        self._is_first = True

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Return the events that these bytes complete.

        Raises:
            UpstreamError: An event is longer than the limit.
        """
        events = [event for line in self._lines_of(data) for event in self._take(line.rstrip(b"\r\n"))]
        if self._size + self._rest_size > self._max_event_bytes:
            raise UpstreamError(f"the upstream sent an event of more than {self._max_event_bytes} bytes")
        return events

    def finish(self) -> list[ServerEvent]:
        """Return the event at the end, if the stream ends without the empty line that closes it."""
        rest = self._take_rest()
        events = self._take(rest.rstrip(b"\r\n")) if rest else []
        return [*events, *self._take(b"")]

    def _lines_of(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes complete. Bytes that complete none cost no more the longer the line is."""
        has_end = b"\n" in data or b"\r" in data or (bool(self._rest) and self._rest[-1].endswith(b"\r"))
        if data and has_end:
            lines = (self._take_rest() + data).splitlines(keepends=True)
            is_over = lines[-1].endswith(b"\n")  # an LF may follow the CR
            data = b"" if is_over else lines.pop()
        else:
            lines = []
        if data:
            self._rest.append(data)
            self._rest_size += len(data)
        return lines

    def _take_rest(self) -> bytes:
        rest = b"".join(self._rest)
        self._rest, self._rest_size = [], 0
        return rest

    def _take(self, line: bytes) -> list[ServerEvent]:
        if self._is_first:
            line, self._is_first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            return [*self._take_stray(), *self._take_event()]
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not name:
            return [ServerEvent(None)]
        if name == b"data":
            self._lines.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._name = _text(value)
        elif name == b"error":
            return [*self._take_stray(), ServerEvent(_text(value), "error")]
        elif self._stray or line.lstrip().startswith((b"{", b"[")):
            self._stray.append(line)
            self._size += len(line) + 1
        return self._take_stray() if name in _FIELDS else []

    def _take_event(self) -> list[ServerEvent]:
        lines, self._lines, self._size = self._lines, [], 0
        name, self._name = self._name, ""
        return [ServerEvent(_text(b"\n".join(lines)), name)] if lines else []

    def _take_stray(self) -> list[ServerEvent]:
        lines, self._stray = self._stray, []
        return [ServerEvent(_text(b"\n".join(lines)), is_stray=True)] if lines else []


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def encode(body: object, *, name: str | None = None) -> bytes:
    """Return an event with a JSON value as its data."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + dump(body) + b"\n\n"


def encode_done() -> bytes:
    """Return the event that ends a stream of chat or text completions."""
    return b"data: [DONE]\n\n"
