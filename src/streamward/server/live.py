"""A feed of what is being judged at this moment, for whoever watches. Nothing of it is kept."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from streamward.detectors.detectors import Detectors
from streamward.errors import OverloadedError, RateLimitError
from streamward.moderation.text_mask import TextMask
from streamward.schema import Action, Category, Decision, Event, RiskLevel, Side, Verdict
from streamward.server.records import ModerationContext

_MAX_WAITING = 256
_KEPT_ENDS = 64  # more than a re-tokenised end has tokens
_TAIL_CHARS = 4096


class LiveKind(StrEnum):
    """Kind of event."""

    OPENED = "opened"
    TOKENS = "tokens"
    DROPPED = "dropped"
    DECIDED = "decided"


@dataclass(frozen=True, slots=True)
class LiveToken:
    """A judged token.

    Attributes:
        text: What it says; empty if the service does not show text.
        risk_level: Its level at the guard's operating point.
        unsafe: P(Unsafe).
        controversial: P(Controversial).
        category: The kind of harm; None when safe.
    """

    text: str
    risk_level: RiskLevel
    unsafe: float
    controversial: float
    category: Category | None


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """Something that happened to a stream or a request.

    Attributes:
        kind: opened: a response begins. tokens: some of it were judged. dropped: tokens from `start` on were taken out
            of it and nobody got them; only who watches all tenants is told, others see the tokens replaced by none.
            decided: it is over, and logged.
        time: When.
        tenant: Whose it is; others do not see it.
        endpoint: As in the log of decisions.
        stream_id: Which stream; the request's id where there is only one.
        tokens: In order, for `tokens`.
        start: Position of the first of them: tokens from there on are replaced.
        action: The decision so far.
        risk_level: The level that caused it.
        category: The kind of harm that caused it.
        rules: Ids of the rules of the policy that the text breaks.
        detector: Id of the policy's detector whose finding caused it; None if the guard did.
        side: Which side caused it.
        latency_ms: For `decided`.
        guard_ms: For `decided`: the part of it that was spent waiting for the guard; None if it was not measured.
    """

    kind: LiveKind
    time: datetime
    tenant: str
    endpoint: str
    stream_id: str
    tokens: tuple[LiveToken, ...] = ()
    start: int = 0
    action: Action = Action.ALLOW
    risk_level: RiskLevel | None = RiskLevel.SAFE
    category: Category | None = None
    rules: tuple[str, ...] = ()
    detector: str | None = None
    side: Side | None = None
    latency_ms: float | None = None
    guard_ms: float | None = None


def decision_event(
    kind: LiveKind,
    job: ModerationContext,
    decision: Decision,
    *,
    stream_id: str,
    start: int = 0,
    tokens: Sequence[LiveToken] = (),
) -> LiveEvent:
    """Return an event of a stream with the decision so far; see `LiveEvent`."""
    return LiveEvent(
        kind,
        datetime.now(UTC),
        job.tenant,
        job.endpoint,
        stream_id,
        tokens=tuple(tokens),
        start=start,
        action=decision.action,
        risk_level=decision.risk_level,
        category=decision.category,
        rules=tuple(rule.id for rule in decision.rules),
        detector=decision.detector,
        side=decision.side,
    )


class Subscriber:
    """Bounded event queue of one subscriber. A slow subscriber loses the oldest events and never delays the service."""

    def __init__(self, tenant: str | None) -> None:
        """Watch one tenant's events, or all."""
        self.tenant = tenant
        self.num_lost = 0
        self._queue: asyncio.Queue[LiveEvent] = asyncio.Queue(_MAX_WAITING)

    async def next(self, timeout_s: float) -> LiveEvent | None:
        """Return the next event; None if none came in time, so that a connection can be kept alive."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            return await asyncio.wait_for(self._queue.get(), timeout_s)
        except TimeoutError:
            return None

    def put(self, event: LiveEvent) -> None:
        """Take an event, without waiting."""
        if self._queue.full():
            self._queue.get_nowait()
            self.num_lost += 1
        self._queue.put_nowait(event)


class LiveFeed:
    """Passes events on to subscribers. Used from the event loop only."""

    def __init__(self, *, has_text: bool, max_subscribers: int, max_per_tenant: int) -> None:
        """Start without subscribers."""
        self._has_text = has_text
        self._max_subscribers = max_subscribers
        self._max_per_tenant = max_per_tenant
        self._num_by_owner: Counter[str] = Counter()
        self._subscribers: list[Subscriber] = []

    @property
    def is_watched(self) -> bool:
        """True if there is a subscriber; without one no events need to be made."""
        return bool(self._subscribers)

    def publish(self, event: LiveEvent) -> None:
        """Pass an event on to everybody who may see it; without text unless the settings show it."""
        if not self._subscribers:
            return
        if not self._has_text and event.tokens:
            event = replace(event, tokens=tuple(replace(token, text="") for token in event.tokens))
        for subscriber in self._subscribers:
            if subscriber.tenant is None:
                subscriber.put(event)
            elif subscriber.tenant == event.tenant:
                is_dropped = event.kind is LiveKind.DROPPED
                subscriber.put(replace(event, kind=LiveKind.TOKENS) if is_dropped else event)

    def check_room(self, owner: str) -> None:
        """Refuse another subscriber of a tenant before its answer has begun.

        Raises:
            RateLimitError: Too many of the tenant watch already.
            OverloadedError: Too many of all watch already.
        """
        if self._num_by_owner[owner] >= self._max_per_tenant:
            raise RateLimitError(f"{self._max_per_tenant} of this tenant watch already", retry_after_s=1.0)
        if len(self._subscribers) >= self._max_subscribers:
            raise OverloadedError(f"{self._max_subscribers} watch already; try again later")

    @contextmanager
    def watched(self, tenant: str | None, *, owner: str) -> Iterator[Subscriber]:
        """Subscribe for the time of a `with` block.

        Args:
            tenant: Whose events; None for everybody's, which only admins may ask for.
            owner: The tenant that watches.

        Raises:
            RateLimitError: Too many of the tenant watch already.
            OverloadedError: Too many of all watch already.
        """
        self.check_room(owner)
        subscriber = Subscriber(tenant)
        self._subscribers.append(subscriber)
        self._num_by_owner[owner] += 1
        try:
            yield subscriber
        finally:
            self._subscribers.remove(subscriber)
            self._num_by_owner -= Counter([owner])


@dataclass(frozen=True, slots=True)
class ShownTokens:
    """Tokens to be shown.

    Attributes:
        start: Position of the first.
        tokens: In order; may be none.
    """

    start: int
    tokens: tuple[LiveToken, ...]


class LiveText:
    """The end of a growing text, to say what its tokens are; kept only as far as tokens may still change.

    Under detectors tokens are shown once these have decided about them, and say what stands there then: the first token
    of what is masked has the replacement, its others have no text.
    """

    def __init__(self, detectors: Detectors | None = None) -> None:
        """Start empty."""
        self._tail = ""
        self._start = 0
        self._ends: dict[int, int] = {}  # end of each of the last tokens, by its position
        self._detectors = detectors
        self._mask = TextMask(detectors) if detectors else None
        self._waiting: list[Verdict] = []  # verdicts that wait for the detectors

    def add(self, text: str) -> None:
        """Append text."""
        if self._mask is not None:
            self._mask.feed(text)
        self._tail += text
        excess = len(self._tail) - max(_TAIL_CHARS, len(text))
        if excess > 0:
            self._tail = self._tail[excess:]
            self._start += excess

    def truncate(self, num_chars: int) -> None:
        """Drop all but the first characters."""
        self._tail = self._tail[: max(0, num_chars - self._start)]
        self._start = min(self._start, num_chars)
        self._ends = {position: end for position, end in self._ends.items() if end <= num_chars}
        self._waiting = [each for each in self._waiting if each.span is not None and each.span.end <= num_chars]
        if self._detectors:
            self._mask = TextMask(self._detectors, start=self._start)
            self._mask.feed(self._tail)

    def tokens(self, events: Sequence[Event]) -> ShownTokens:
        """Return tokens that can be shown now, with what they say, after some were judged."""
        verdicts = [event.verdict for event in events]
        if self._mask is None:
            return self._shown(verdicts)
        if verdicts:
            first = verdicts[0].position
            self._waiting = [each for each in self._waiting if each.position < first] + verdicts
        return self._decided(self._mask.limit)

    def finish(self) -> ShownTokens:
        """Return the tokens that are left; nothing follows."""
        if self._mask is not None:
            self._mask.finish()
        return self._decided(sys.maxsize)

    def _decided(self, limit: int) -> ShownTokens:
        count = next(
            (number for number, each in enumerate(self._waiting) if each.span is not None and each.span.end > limit),
            len(self._waiting),
        )
        ready, self._waiting = self._waiting[:count], self._waiting[count:]
        return self._shown(ready)

    def _shown(self, verdicts: Sequence[Verdict]) -> ShownTokens:
        start = verdicts[0].position if verdicts else 0
        return ShownTokens(start, tuple(map(self._token, verdicts)))

    def _token(self, verdict: Verdict) -> LiveToken:
        text = ""
        if verdict.span is not None:
            start = max(verdict.span.start, self._ends.get(verdict.position - 1, 0))  # two tokens can share a character
            if start >= self._start:
                text = self._tail[start - self._start : max(start, verdict.span.end) - self._start]
                text = text if self._mask is None else self._mask.masked(text, start)
            self._ends[verdict.position] = verdict.span.end
            self._ends.pop(verdict.position - _KEPT_ENDS, None)
        return LiveToken(
            text,
            verdict.risk_level,
            verdict.probabilities[RiskLevel.UNSAFE],
            verdict.probabilities[RiskLevel.CONTROVERSIAL],
            verdict.category,
        )
