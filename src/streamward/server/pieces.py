"""Pieces that callers feed to their streams, and the result of each."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from streamward.detectors.finding import DetectorFinding
from streamward.moderation.async_stream import AsyncGuardStream
from streamward.schema import Decision, Event

T = TypeVar("T")
Kind = Literal["text", "token_ids", "reasoning"]
Ending = Literal["closed", "expired", "failed", "stopped"]

_GRACE_S = 0.2  # time for a short piece to be judged after its client has left


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """A piece of text fed to a stream.

    Attributes:
        kind: text of the answer, its tokens' ids, or text of the reasoning before it.
        content: The text or ids.
    """

    kind: Kind
    content: str | Sequence[int]


@dataclass(frozen=True, slots=True)
class Appended:
    """Result of one piece.

    Attributes:
        seq: Number of the piece, from 0.
        events: One for each newly judged token.
        decision: What to do by all that was seen so far.
        releasable_chars: Characters from the start that may be shown.
        is_failed: Whether the guard failed, which ended the stream.
        findings: What the policy's detectors found since the piece before.
        masked: What may be shown since then, masked; None where no detector reads the response.
    """

    seq: int
    events: tuple[Event, ...]
    decision: Decision
    releasable_chars: int
    is_failed: bool = False
    findings: tuple[DetectorFinding, ...] = ()
    masked: str | None = None


class ShownNews(NamedTuple):
    """Findings and text that are new."""

    findings: tuple[DetectorFinding, ...]
    masked: str | None


class ShownText:
    """Numbers of findings and characters of a stream that its caller has been told."""

    def __init__(self, stream: AsyncGuardStream) -> None:
        """Have told nothing yet."""
        self._stream = stream
        self._num_findings = 0
        self._num_chars = 0

    def news(self) -> ShownNews:
        """Return what was found, and what may be shown, since the last time."""
        findings = tuple(self._stream.findings[self._num_findings :])
        end = max(self._num_chars, self._stream.releasable_chars)
        masked = self._stream.masked(self._num_chars, end)
        self._num_findings += len(findings)
        self._num_chars = end
        return ShownNews(findings, masked)


async def with_grace(work: Coroutine[None, None, T]) -> T:
    """Wait for work; a caller that is cancelled gives it a moment to end, so that what is nearly done is not lost."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_GRACE_S)
        if task.done() and not task.cancelled():
            return task.result()
        task.cancel()
        await asyncio.wait([task])
        raise
    finally:
        task.cancel()  # also if the wait for it was cancelled
