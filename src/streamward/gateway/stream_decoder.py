"""An upstream's stream, from bytes to chunks."""

from collections.abc import Iterator, Sequence

from streamward.errors import UpstreamError
from streamward.gateway.release_buffer import Chunk
from streamward.gateway.reported_errors import ErrorReport, ReportedError, find_report, read_report
from streamward.gateway.sse import DONE, EventParser, ServerEvent
from streamward.gateway.state_seal import StateSeal
from streamward.gateway.strict_json import JsonObject, parse_answer
from streamward.gateway.wire import WireFormat

_MOST_ERROR_LINES = 20
_WORDS = ("text/plain", "application/json", "text/event-stream")


class StreamDecoder:
    """Takes bytes in and knows when the stream is over: at its end marker, at its end, or where it breaks."""

    def __init__(self, wire: WireFormat, *, seal: StateSeal, max_event_bytes: int, max_answer_bytes: int) -> None:
        """Expect the beginning."""
        self.is_done = False
        """True if the end marker has come."""
        self.is_over = False
        """True if nothing more is read."""
        self.error: UpstreamError | None = None
        """Error that broke the stream."""
        self.has_comment = False
        """True if a comment came with the last bytes, or another event without content: a sign of life."""
        self.has_content = False
        """True if anything was said at all."""
        self._wire = wire
        self._seal = seal
        self._parser = EventParser(max_event_bytes)
        self._max_answer_bytes = max_answer_bytes
        self._size = 0

    def take(self, batch: Sequence[bytes] | None) -> list[Chunk]:
        """Return the chunks in what came; None is the end. Parcels before a break are good."""
        chunks: list[Chunk] = []
        self.has_comment = False
        try:
            for event in self._events(batch):
                self._take_event(event, chunks)
                if self.is_over:
                    break
        except UpstreamError as error:
            self.fail(error)
        return chunks

    def fail(self, error: UpstreamError) -> None:
        """End here."""
        self.error = self.error or error
        self.is_over = True

    def _events(self, batch: Sequence[bytes] | None) -> Iterator[ServerEvent]:
        if batch is None:
            yield from self._parser.finish()
            self.is_over = True
            return
        for data in batch:
            self._size += len(data)
            if self._size > self._max_answer_bytes:
                raise UpstreamError(f"the upstream's answer is longer than {self._max_answer_bytes} bytes")
            yield from self._parser.feed(data)

    def _take_event(self, event: ServerEvent, chunks: list[Chunk]) -> None:
        if event.data is None or not event.data.strip():
            self.has_comment = True
        elif event.data.strip() == DONE:
            self.is_done = self.is_over = True
        elif (body := _read(event)) is None:
            self.has_comment = True
        else:
            self._seal.seal(body)
            found = self._wire.read_event(body, len(event.data))
            self.has_content |= any(chunk.group is not None and (chunk.slots or chunk.ends_group) for chunk in found)
            chunks += found


def read_document(data: bytes) -> JsonObject:
    """Return the object that an answer of status 200 is.

    Raises:
        UpstreamError: It is none, or one that says what went wrong.
    """
    try:
        body = parse_answer(data)
    except ValueError as error:
        raise UpstreamError("the upstream's answer is not valid JSON") from error
    report = find_report(body)
    if report is not None:
        raise ReportedError(report)
    if not isinstance(body, dict):
        raise UpstreamError("the upstream's answer is not a JSON object")
    return body


def read_error(data: bytes, media_type: str) -> ErrorReport:
    """Return what the body of an error says: JSON, a stream of events or lines with JSON in them, or plain text."""
    text = data.decode("utf-8", "replace").strip()
    for part in (text, *(line.removeprefix("data:").strip() for line in text.splitlines()[:_MOST_ERROR_LINES])):
        try:
            body = parse_answer(part.encode())
        except ValueError:
            continue
        if isinstance(body, dict | list):
            return read_report(body)
    is_words = media_type in _WORDS and not text.startswith(("<", "{", "["))
    return read_report(text if is_words else None)


def _read(event: ServerEvent) -> JsonObject | None:
    """Return the object in an event; None if there is nothing in it.

    Raises:
        UpstreamError: It is not an object, or one that says what went wrong.
    """
    assert event.data is not None, "it is no comment"
    try:
        body = parse_answer(event.data)
    except ValueError as error:
        if event.name == "error":
            raise ReportedError(read_report(event.data)) from error
        if event.is_stray:
            return None
        raise UpstreamError("the upstream sent an event that is not valid JSON") from error
    report = read_report(body) if event.name == "error" else find_report(body)
    if report is not None:
        raise ReportedError(report)
    if body is None or event.is_stray:
        return None
    if not isinstance(body, dict):
        raise UpstreamError("the upstream sent an event that is not an object")
    return body
