"""An upstream's stream, from bytes to parcels."""

from collections.abc import Iterator, Sequence

from streamward.errors import UpstreamError
from streamward.gateway.release import Parcel
from streamward.gateway.sse import DONE, EventParser, ServerEvent
from streamward.gateway.state_seal import StateSeal
from streamward.gateway.strict_json import parse_object
from streamward.gateway.wire import WireFormat


class StreamReading:
    """Takes bytes in and knows when the stream is over: at its end marker, at its end, or where it breaks."""

    def __init__(self, wire: WireFormat, *, seal: StateSeal, max_event_bytes: int, max_answer_bytes: int) -> None:
        """Expect the beginning."""
        self.is_done = False
        """Whether the end marker has come."""
        self.is_over = False
        """Whether nothing more is read."""
        self.error: UpstreamError | None = None
        """What it broke with."""
        self.has_comment = False
        """Whether a comment came with the last bytes: a sign of life."""
        self._wire = wire
        self._seal = seal
        self._parser = EventParser(max_event_bytes)
        self._max_answer_bytes = max_answer_bytes
        self._size = 0

    def take(self, batch: Sequence[bytes] | None) -> list[Parcel]:
        """Return the parcels in what came; None is the end. Parcels before a break are good."""
        parcels: list[Parcel] = []
        self.has_comment = False
        try:
            for event in self._events(batch):
                self._take_event(event, parcels)
                if self.is_over:
                    break
        except UpstreamError as error:
            self.fail(error)
        return parcels

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

    def _take_event(self, event: ServerEvent, parcels: list[Parcel]) -> None:
        if event.data is None:
            self.has_comment = True
        elif event.data.strip() == DONE:
            self.is_done = self.is_over = True
        elif event.data:
            try:
                body = parse_object(event.data)
            except ValueError as error:
                raise UpstreamError("the upstream sent an event that is not valid JSON") from error
            self._seal.seal(body)
            parcels += self._wire.read_event(body, len(event.data))
