"""The interface between a guard and the place where its tokens are scored."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol

from streamward.engine.outputs import StepOutput
from streamward.model.guard_config import GuardConfig
from streamward.moderation.health import GuardHealth
from streamward.schema import Side

Segment = tuple[Sequence[int], Side | None]
"""Token ids, and the side whose heads score them; None if they are only context."""


class PendingScore(Future[list[StepOutput]]):
    """Outputs that a scorer will give, or has given. Thread-safe; whoever is first decides how it ends."""

    def check(self) -> None:
        """Fail if nobody works on it any more; whoever waits for long calls it from time to time."""


class TokenScorer(Protocol):
    """Scores a guard's streams of tokens, by an engine in this process or elsewhere. Thread-safe.

    The methods behave like those of `EngineWorker`, and raise the same errors.
    """

    @property
    def guard_config(self) -> GuardConfig:
        """Labels and operating points of the guard."""
        ...

    @property
    def max_stream_tokens(self) -> int:
        """Most tokens of one stream."""
        ...

    def open(self) -> int:
        """Open a stream for the owner of the current call."""
        ...

    @contextmanager
    def temporary_stream(self) -> Iterator[int]:
        """Open a stream for the time of a `with` block."""
        stream_id = self.open()
        try:
            yield stream_id
        finally:
            self.close_stream(stream_id)

    def close_stream(self, stream_id: int) -> None:
        """Close a stream. Waits for nothing; whoever waits for its tokens gets a StreamClosedError."""
        ...

    def score(self, stream_id: int, token_ids: Sequence[int], *, head: Side | None) -> list[StepOutput]:
        """Append tokens to a stream and wait until they are scored, or the current call is cancelled."""
        ...

    def score_segments(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        """Likewise for successive tokens that different heads score."""
        ...

    @property
    def holds_thread(self) -> bool:
        """True if `submit` holds the thread of its caller until the tokens are scored."""
        return True

    def submit(self, stream_id: int, segments: Sequence[Segment]) -> PendingScore:
        """Begin what `score_segments` does; what is pending fails with its errors. By default it ends here, too."""
        pending = PendingScore()
        pending.set_result(self.score_segments(stream_id, segments))
        return pending

    def truncate(self, stream_id: int, length: int) -> None:
        """Remove a stream's tokens from `length` on."""
        ...

    def health(self) -> GuardHealth:
        """Return whether calls make progress."""
        ...

    def close(self) -> None:
        """Close all streams and free all resources. May be called again."""
        ...
