"""Reads the text of an upstream's answer that goes on with another one."""

from collections.abc import Sequence

from streamward.errors import UpstreamError
from streamward.gateway.config import GatewayLimits
from streamward.gateway.continuation import ContinuationRequest
from streamward.gateway.reported_errors import ReportedError, find_report
from streamward.gateway.sse import DONE, EventParser, ServerEvent
from streamward.gateway.strict_json import JsonObject, parse_answer
from streamward.gateway.upstream import Upstream
from streamward.gateway.upstream_reader import UpstreamReader
from streamward.tokenizer import clean_text

_REASONS = frozenset({"stop", "length", "content_filter"})


class ContinuationReader:
    """One streamed answer of an upstream, of which only text, the reason of its end and its usage are read."""

    def __init__(self, upstream: Upstream, request: ContinuationRequest, *, limits: GatewayLimits) -> None:
        """Send the request; needs a running event loop. Close it: that ends the request."""
        self.finish_reason: str | None = None
        """`stop`, `length` or `content_filter` once it has said so."""
        self.usage: JsonObject | None = None
        """Last token counts that the upstream stated."""
        self._reader = UpstreamReader(upstream, request.path, request.body, max_ahead_bytes=limits.max_ahead_bytes)
        self._parser = EventParser(limits.max_event_bytes)
        self._max_bytes = limits.max_answer_bytes
        self._size = 0
        self._repeated = request.repeated
        self._surrogate = ""
        self._has_begun = False
        self._is_done = False

    async def next(self) -> str | None:
        """Wait for more text; None at the end. May be empty.

        Raises:
            UpstreamError: The upstream failed, or its answer is not what it should be.
        """
        if not self._has_begun:
            await self._begin()
        batch = None if self._is_done else await self._reader.next()
        if batch is None:
            if self._is_done:
                return None
            events = self._parser.finish()
            self._is_done = True
            text = self._text_of(events)
            if self.finish_reason is None:
                raise UpstreamError("the upstream ended its answer early")
            return text
        events = []
        for data in batch:
            self._size += len(data)
            events += self._parser.feed(data)
        if self._size > self._max_bytes:
            raise UpstreamError(f"the upstream's answer is longer than {self._max_bytes} bytes")
        return self._text_of(events)

    async def aclose(self) -> None:
        """End the request if it is still going on."""
        await self._reader.aclose()

    async def _begin(self) -> None:
        head = await self._reader.head()
        if head.status != 200 or not head.may_be_stream:
            raise UpstreamError("the upstream refused to go on with an answer")
        self._has_begun = True

    def _text_of(self, events: Sequence[ServerEvent]) -> str:
        text = ""
        for event in events:
            if event.data is None or not event.data.strip() or event.is_stray:
                continue
            if event.data.strip() == DONE:
                self._is_done = True
                break
            text += self._read(event.data)
        return self._without_repetition(self._cleaned(text))

    def _read(self, data: str) -> str:
        try:
            body = parse_answer(data)
        except ValueError as error:
            raise UpstreamError("the upstream sent an event that is not valid JSON") from error
        report = find_report(body)
        if report is not None:
            raise ReportedError(report)
        if not isinstance(body, dict):
            return ""
        if isinstance(usage := body.get("usage"), dict):
            self.usage = usage
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return ""
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason and self.finish_reason is None:
            self.finish_reason = reason if reason in _REASONS else "stop"
        delta = choice.get("delta")
        said = delta.get("content") if isinstance(delta, dict) else choice.get("text")
        return said if isinstance(said, str) else ""

    def _cleaned(self, text: str) -> str:
        """Join halves of characters; the last half waits."""
        text = self._surrogate + text
        self._surrogate = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return clean_text(text[: len(text) - len(self._surrogate)])

    def _without_repetition(self, text: str) -> str:
        """Leave out what was given to the upstream and comes back.

        Raises:
            UpstreamError: It is something else.
        """
        size = min(len(text), len(self._repeated))
        if text[:size] != self._repeated[:size]:
            raise UpstreamError("the upstream does not repeat the text that it goes on with (prefill_is_repeated)")
        self._repeated = self._repeated[size:]
        return text[size:]
