"""Many streams of tokens, one batched forward pass a step, one paged KV cache. No text."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from streamward.engine.attention import KVCache, PagedAttention, Part
from streamward.engine.config import EngineConfig
from streamward.engine.page_pool import PagePool
from streamward.engine.stream import Stream, shares
from streamward.errors import ConfigError, ContextLengthError, InputError, OverloadedError, StreamClosedError
from streamward.model.guard_model import GuardModel
from streamward.schema import Side


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What the heads say of successive tokens of one stream, in [0, 1], float32.

    Attributes:
        stream_id: From `open`.
        position: Index of the first token in its stream.
        side: Whose heads were read.
        risk_probs: One row a token, in the order of the checkpoint's risk levels.
        category_probs: One row a token, in the order of the checkpoint's categories.
    """

    stream_id: int
    position: int
    side: Side
    risk_probs: Tensor
    category_probs: Tensor


P = ParamSpec("P")
R = TypeVar("R")


def _locked(method: "Callable[Concatenate[Engine, P], R]") -> "Callable[Concatenate[Engine, P], R]":
    @wraps(method)
    def call(self: "Engine", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return call


class Engine:
    """Reads streams of tokens with a Stream guard. Thread-safe: one call at a time.

    Streams that wait for nothing may lose their pages to others when the cache is full; they are read again when they
    go on, and verdicts already given are not repeated.
    """

    def __init__(self, config: EngineConfig, *, model: GuardModel) -> None:
        """Reserve the cache.

        Raises:
            ConfigError: A limit does not fit the model.
        """
        self.config = config
        self._model = model
        self._lock = threading.RLock()
        self._streams: dict[int, Stream] = {}
        self._next_id = 0
        self._num_steps = 0
        shape = model.decoder.config
        self.max_stream_tokens = config.max_stream_tokens or shape.max_positions
        if self.max_stream_tokens > shape.max_positions:
            raise ConfigError(
                f"max_stream_tokens is {config.max_stream_tokens}; the model has {shape.max_positions} positions"
            )
        weight = model.decoder.embed.weight
        num_pages = config.kv_cache_bytes // (KVCache.bytes_per_token(shape, weight.dtype) * config.page_tokens)
        if num_pages < 1:
            raise ConfigError(f"kv_cache_bytes is {config.kv_cache_bytes}; not one page of {config.page_tokens} fits")
        self._pool = PagePool(num_pages)
        self._cache = KVCache(shape, num_slots=num_pages * config.page_tokens, dtype=weight.dtype, device=weight.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)

    @property
    def model(self) -> GuardModel:
        """The guard whose heads are read."""
        return self._model

    @property
    def num_streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    @property
    def num_free_pages(self) -> int:
        """Pages of the cache that no stream holds."""
        return self._pool.num_free

    @_locked
    def open(self) -> int:
        """Open an empty stream and return its id.

        Raises:
            OverloadedError: `max_streams` are open.
        """
        if len(self._streams) >= self.config.max_streams:
            raise OverloadedError(f"{len(self._streams)} streams are open, as many as max_streams allows; try later")
        self._next_id += 1
        self._streams[self._next_id] = Stream(self._next_id)
        return self._next_id

    @_locked
    def extend(self, stream_id: int, token_ids: Sequence[int], *, read: Side | None) -> None:
        """Queue new tokens of a stream for the next steps.

        Args:
            stream_id: From `open`.
            token_ids: One or more ids, each in [0, vocab_size).
            read: Whose heads judge these tokens; None if they are only context.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: No ids, or one is out of range.
            ContextLengthError: The stream would exceed `max_stream_tokens`.
            OverloadedError: The queue or the cache is full. As with the others, nothing was queued.
        """
        stream = self._stream(stream_id)
        self._check(stream, token_ids)
        self._reserve(stream, len(stream.token_ids) + len(token_ids))
        stream.token_ids += token_ids
        stream.sides += [read] * len(token_ids)

    @_locked
    def step(self) -> list[StepOutput]:
        """Read queued tokens of all streams in one forward pass.

        Returns:
            The outputs of the tokens that some heads judge, for each stream in order; empty if nothing waits.
        """
        waiting = [stream for stream in self._streams.values() if stream.num_unread]
        if not waiting:
            return []
        waiting.sort(key=lambda stream: stream.last_step)
        granted = shares([stream.num_unread for stream in waiting], total=self.config.max_batch_tokens)
        batch = [(stream, count) for stream, count in zip(waiting, granted, strict=True) if count]
        hidden_TD = self._forward(batch)
        self._num_steps += 1
        return self._read_heads(batch, hidden_TD)

    @_locked
    def truncate(self, stream_id: int, length: int) -> None:
        """Drop a stream's tokens from `length` on, queued or read.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: Not from 0 up to the stream's length.
        """
        stream = self._stream(stream_id)
        if not 0 <= length <= len(stream.token_ids):
            raise InputError(f"length is {length}; it must be from 0 to {len(stream.token_ids)}")
        del stream.token_ids[length:], stream.sides[length:]
        stream.num_cached = min(stream.num_cached, length)
        stream.num_judged = min(stream.num_judged, length)
        kept = self._pages_for(stream.num_cached)
        self._pool.release(stream.pages[kept:])
        del stream.pages[kept:]

    @_locked
    def fork(self, stream_id: int) -> int:
        """Open a stream that continues from where this one is; they share what was read.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: The stream has queued tokens; step first.
            OverloadedError: `max_streams` are open.
        """
        stream = self._stream(stream_id)
        if stream.num_unjudged:
            raise InputError(f"the stream has {stream.num_unjudged} queued tokens; step until it has none")
        other = self._streams[self.open()]
        other.token_ids, other.sides = list(stream.token_ids), list(stream.sides)
        other.num_cached, other.num_judged = stream.num_cached, stream.num_judged
        other.pages = list(stream.pages)
        self._pool.share(other.pages)
        return other.id

    @_locked
    def close(self, stream_id: int) -> None:
        """Free everything a stream holds. Closing one that is closed does nothing."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._pool.release(stream.pages)

    @_locked
    def length(self, stream_id: int) -> int:
        """Return how many tokens a stream has, the queued ones among them.

        Raises:
            StreamClosedError: The stream was closed or never opened.
        """
        return len(self._stream(stream_id).token_ids)

    @_locked
    def num_queued(self, stream_id: int) -> int:
        """Return how many of a stream's tokens wait for a step.

        Raises:
            StreamClosedError: The stream was closed or never opened.
        """
        return self._stream(stream_id).num_unjudged

    def _stream(self, stream_id: int) -> Stream:
        try:
            return self._streams[stream_id]
        except KeyError:
            raise StreamClosedError(f"stream {stream_id} was closed or never opened") from None

    def _check(self, stream: Stream, token_ids: Sequence[int]) -> None:
        vocab_size = self._model.decoder.config.vocab_size
        if not token_ids:
            raise InputError("token_ids is empty; give at least one id")
        if min(token_ids) < 0 or max(token_ids) >= vocab_size:
            raise InputError(f"a token id is out of range; ids must be from 0 to {vocab_size - 1}")
        length = len(stream.token_ids) + len(token_ids)
        if length > self.max_stream_tokens:
            raise ContextLengthError(f"the stream would have {length} tokens; at most {self.max_stream_tokens} fit")
        queued = sum(each.num_unjudged for each in self._streams.values()) + len(token_ids)
        if queued > self.config.max_queued_tokens:
            raise OverloadedError(
                f"{queued} tokens would be queued; max_queued_tokens is {self.config.max_queued_tokens}; try later"
            )

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.config.page_tokens)

    def _reserve(self, stream: Stream, length: int) -> None:
        """Give a stream pages for `length` tokens of its own to write to."""
        page_tokens = self.config.page_tokens
        partial = stream.num_cached % page_tokens
        must_copy = bool(partial) and self._pool.is_shared(stream.pages[stream.num_cached // page_tokens])
        missing = self._pages_for(length) - len(stream.pages)
        self._make_room(missing + must_copy, keep=stream)
        if must_copy:
            index = stream.num_cached // page_tokens
            shared = stream.pages[index]
            (own,) = self._pool.take(1, after=stream.pages[index - 1] if index else None)
            self._cache.copy(
                slice(shared * page_tokens, shared * page_tokens + partial),
                slice(own * page_tokens, own * page_tokens + partial),
            )
            self._pool.release([shared])
            stream.pages[index] = own
        if missing > 0:
            stream.pages += self._pool.take(missing, after=stream.pages[-1] if stream.pages else None)

    def _make_room(self, num_pages: int, *, keep: Stream) -> None:
        """Evict streams that wait for nothing, the longest unused first, until enough pages are free."""
        if num_pages <= self._pool.num_free:
            return
        idle = [each for each in self._streams.values() if each.pages and not each.num_unjudged and each is not keep]
        for stream in sorted(idle, key=lambda each: each.last_step):
            self._pool.release(stream.pages)
            stream.pages, stream.num_cached = [], 0
            if num_pages <= self._pool.num_free:
                return
        raise OverloadedError(
            f"the KV cache has {self._pool.num_free} free pages; {num_pages} are needed; try again later"
        )

    @torch.inference_mode()
    def _forward(self, batch: Sequence[tuple[Stream, int]]) -> Tensor:
        page_tokens = self.config.page_tokens
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        parts: list[Part] = []
        for stream, count in batch:
            start, end = stream.num_cached, stream.num_cached + count
            parts.append(Part(slice(len(ids), len(ids) + count), self._part_slots(stream, end), start))
            ids += stream.token_ids[start:end]
            positions += range(start, end)
            slots += stream.slots(start, end, page_tokens=page_tokens)
        device = self._model.decoder.embed.weight.device
        attend = PagedAttention(self._cache, new_slots_T=torch.tensor(slots, device=device), parts=parts)
        hidden_TD: Tensor = self._model.decoder(
            torch.tensor(ids, device=device), torch.tensor(positions, device=device), attend
        )
        return hidden_TD

    def _part_slots(self, stream: Stream, end: int) -> slice | Tensor:
        if stream.has_adjacent_pages():
            first = stream.pages[0] * self.config.page_tokens
            return slice(first, first + end)
        return torch.tensor(stream.slots(0, end, page_tokens=self.config.page_tokens))

    @torch.inference_mode()
    def _read_heads(self, batch: Sequence[tuple[Stream, int]], hidden_TD: Tensor) -> list[StepOutput]:
        runs: dict[Side, list[tuple[Stream, int, range]]] = {side: [] for side in Side}
        offset = 0
        for stream, count in batch:
            for start, end, side in _judged_runs(stream, stream.num_cached, stream.num_cached + count):
                first_row = offset + start - stream.num_cached
                runs[side].append((stream, start, range(first_row, first_row + end - start)))
            offset += count
            stream.num_cached += count
            stream.num_judged = max(stream.num_judged, stream.num_cached)
            stream.last_step = self._num_steps
        outputs: list[StepOutput] = []
        for side, found in runs.items():
            if found:
                rows = torch.tensor([row for _, _, rows in found for row in rows], device=hidden_TD.device)
                logits = self._model.heads(side)(hidden_TD[rows])
                lengths = [len(rows) for _, _, rows in found]
                risks = logits.risk_TR.softmax(dim=-1).cpu().split(lengths)
                categories = logits.category_TC.softmax(dim=-1).cpu().split(lengths)
                for (stream, start, _), risk, category in zip(found, risks, categories, strict=True):
                    outputs.append(StepOutput(stream.id, start, side, risk, category))
        return sorted(outputs, key=lambda output: (output.stream_id, output.position))


def _judged_runs(stream: Stream, start: int, end: int) -> list[tuple[int, int, Side]]:
    """Return runs of successive tokens that the same heads judge for the first time."""
    runs: list[tuple[int, int, Side]] = []
    for position in range(max(start, stream.num_judged), end):
        side = stream.sides[position]
        if side is None:
            continue
        if runs and runs[-1][1] == position and runs[-1][2] is side:
            runs[-1] = (runs[-1][0], position + 1, side)
        else:
            runs.append((position, position + 1, side))
    return runs
