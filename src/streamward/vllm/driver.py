"""Streams of tokens over an engine that takes whole texts and caches their beginnings."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamward.engine.outputs import StepOutput
from streamward.errors import ContextLengthError, InputError, OverloadedError, StreamClosedError, UpstreamError
from streamward.guard_call import current_call
from streamward.model.guard_config import GuardConfig
from streamward.moderation.health import GuardHealth, ReadClock
from streamward.moderation.token_scorer import Segment, TokenScorer
from streamward.schema import Side
from streamward.vllm.layout import Rows, head_widths, side_probs

_TRIES = 4  # a text that is read while the cache is full may have to be asked for again


class TokenReader(Protocol):
    """vLLM, in this process or elsewhere. Thread-safe; what is asked at the same time is read together."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens of the vocabulary."""
        ...

    @property
    def max_tokens(self) -> int:
        """Number of tokens of the longest text."""
        ...

    def read(self, token_ids: Sequence[int], *, reuse: bool) -> Rows:
        """Read a text and wait for what the heads say.

        Args:
            token_ids: All of it.
            reuse: Whether its beginning may come from the cache; there are no rows of that part.

        Raises:
            UpstreamError: vLLM failed, or did not answer in time.
            OverloadedError: It has no room at present.
        """
        ...

    def close(self) -> None:
        """Free what the reader holds."""
        ...


@dataclass(slots=True)
class _Stream:
    """Tokens of one conversation; vLLM may forget them at any time."""

    token_ids: list[int] = field(default_factory=list)
    is_open: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)


class VllmTokenScorer(TokenScorer):
    """Appends to streams by asking vLLM for the whole text again, whose cached beginning costs nothing.

    An append costs its tokens and what is behind the last full block of the cache, less than one block. Verdicts given
    are not asked for again, and context is read with the first token behind it that is judged. If vLLM has dropped a
    stream's blocks, it reads them again: slower, the same verdicts.
    """

    def __init__(
        self, reader: TokenReader, *, guard_config: GuardConfig, max_streams: int, max_stream_tokens: int | None
    ) -> None:
        """Take over a reader.

        Args:
            reader: Closed with this driver.
            guard_config: Guard config of the guard it serves.
            max_streams: Open at the same time.
            max_stream_tokens: None for what the reader takes.
        """
        self._reader = reader
        self._guard_config = guard_config
        self._width = sum(head_widths(guard_config))
        self._max_streams = max_streams
        self._max_stream_tokens = min(max_stream_tokens or reader.max_tokens, reader.max_tokens)
        self._streams: dict[int, _Stream] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._is_closed = False
        self._clock = ReadClock()

    @property
    def guard_config(self) -> GuardConfig:
        """Labels and thresholds of the guard."""
        return self._guard_config

    @property
    def max_stream_tokens(self) -> int:
        """Most tokens of one stream."""
        return self._max_stream_tokens

    @property
    def num_streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    def open(self) -> int:
        """Open a stream.

        Raises:
            OverloadedError: Too many streams are open.
            StreamClosedError: The driver was closed.
        """
        with self._lock:
            if self._is_closed:
                raise StreamClosedError("the moderator is closed; load the guard again")
            if len(self._streams) >= self._max_streams:
                raise OverloadedError(
                    f"{len(self._streams)} streams are open, as many as max_streams allows; try later"
                )
            stream_id = next(self._ids)
            self._streams[stream_id] = _Stream()
            return stream_id

    def close_stream(self, stream_id: int) -> None:
        """Close a stream. Whoever waits for its tokens gets a StreamClosedError when they are read."""
        with self._lock:
            stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.is_open = False

    def score(self, stream_id: int, token_ids: Sequence[int], *, head: Side | None) -> list[StepOutput]:
        """Add tokens to a stream and wait until they are judged.

        Args:
            stream_id: From `open`.
            token_ids: Any number of ids.
            head: Side whose heads score these tokens; None if they are only context, for which nothing waits.

        Returns:
            The outputs of the judged tokens, in order; none for context.

        Raises:
            ContextLengthError: The stream would exceed the limit. As with the others, it is as it was.
            InputError: An id is no whole number or out of range.
            StreamClosedError: The stream was closed, perhaps in the meantime.
            OverloadedError: vLLM has no room at present.
            UpstreamError: vLLM failed, or did not answer in time.
            CallCancelledError: The current call was cancelled.
        """
        return self.score_segments(stream_id, [(token_ids, head)])

    def score_segments(self, stream_id: int, segments: Sequence[Segment]) -> list[StepOutput]:
        """Like `read`, for successive tokens that different heads judge; they cost one request together."""
        current_call().check()
        stream = self._stream(stream_id)
        with stream.lock:
            ids = [*stream.token_ids, *(token_id for part, _ in segments for token_id in part)]
            self._check(ids, num_known=len(stream.token_ids))
            runs: list[tuple[int, int, Side]] = []
            position = len(stream.token_ids)
            for part, side in segments:
                if side is not None and part:
                    runs.append((position, position + len(part), side))
                position += len(part)
            outputs: list[StepOutput] = []
            try:
                with self._clock.reading():
                    outputs = self._judge(stream_id, ids, runs) if runs else []
            except UpstreamError:
                if stream.is_open:
                    raise
            if not stream.is_open:
                raise StreamClosedError(f"stream {stream_id} was closed while its tokens were read")
            stream.token_ids = ids
            return outputs

    def truncate(self, stream_id: int, length: int) -> None:
        """Drop a stream's tokens from `length` on.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: Not from 0 up to the stream's length.
        """
        stream = self._stream(stream_id)
        with stream.lock:
            if type(length) is not int or not 0 <= length <= len(stream.token_ids):
                raise InputError(f"length is {length!r}; it must be a whole number from 0 to {len(stream.token_ids)}")
            del stream.token_ids[length:]

    def health(self) -> GuardHealth:
        """Say since when the oldest read waits for vLLM."""
        return self._clock.health()

    def close(self) -> None:
        """Close all streams, and free vLLM. May be called again."""
        with self._lock:
            is_first, self._is_closed = not self._is_closed, True
            streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.is_open = False
        if is_first:
            self._reader.close()

    def _stream(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise StreamClosedError(f"stream {stream_id} was closed or never opened")
        return stream

    def _check(self, ids: Sequence[int], *, num_known: int) -> None:
        if len(ids) > self._max_stream_tokens:
            raise ContextLengthError(f"the stream would have {len(ids)} tokens; at most {self._max_stream_tokens} fit")
        for token_id in ids[num_known:]:
            if type(token_id) is not int:
                raise InputError(f"a token id is of type {type(token_id).__name__}; ids must be whole numbers")
            if not 0 <= token_id < self._reader.vocab_size:
                raise InputError(f"a token id is out of range; ids must be from 0 to {self._reader.vocab_size - 1}")

    def _judge(self, stream_id: int, ids: Sequence[int], runs: Sequence[tuple[int, int, Side]]) -> list[StepOutput]:
        first, end = runs[0][0], runs[-1][1]
        probs = self._tail(ids[:end], first)
        outputs = []
        for start, stop, side in runs:
            risk, category = side_probs(probs[start - first : stop - first], side, self._guard_config)
            outputs.append(StepOutput(stream_id, start, side, risk, category))
        return outputs

    def _tail(self, ids: Sequence[int], first: int) -> NDArray[np.float32]:
        """Return the rows of the tokens from `first` on.

        vLLM gives no rows of what it took from the cache, which goes past `first` where the same text was read before;
        then all of it is read again. It keeps the rows of a text that it has begun, put aside for others and begun once
        more, so their number is held against what it says of its cache.
        """
        reuse = True
        for _ in range(_TRIES):
            current_call().check()
            rows = self._reader.read(ids, reuse=reuse)
            if rows.probs.ndim != 2 or rows.probs.shape[1] != self._width:
                raise UpstreamError(f"vLLM answered with rows of another shape; expected {self._width} labels")
            if len(rows.probs) != len(ids) - rows.num_cached:
                continue
            if rows.num_cached <= first:
                return rows.probs[first - rows.num_cached :]
            reuse = False
        raise OverloadedError(
            "vLLM has put this text aside too often; its cache is too small for what it reads at once"
        )
