"""Many streams of tokens, one batched forward pass a step, one paged KV cache. No text."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from streamward.engine.config import EngineConfig
from streamward.engine.page_pool import PagePool
from streamward.engine.runner import Runner, token_bytes
from streamward.engine.scheduler import Scheduler
from streamward.engine.threads import ThreadGovernor, fixed_threads
from streamward.engine.token_sequence import TokenSequence
from streamward.errors import ConfigError, ContextLengthError, InputError, OverloadedError, StreamClosedError
from streamward.model.attention import round_size
from streamward.model.guard_model import GuardModel
from streamward.model.native_heads import NativeHeads
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

    def __init__(self, config: EngineConfig, *, model: GuardModel, native_kernels: bool = True) -> None:
        """Reserve the cache.

        Args:
            config: Limits.
            model: The guard; its weights must not change from now on.
            native_kernels: Whether compiled kernels may run; torch's operations do the same work.

        Raises:
            ConfigError: A limit does not fit the model or the cache.
        """
        self.config = config
        self._model = model
        self._lock = threading.RLock()
        self._streams: dict[int, TokenSequence] = {}
        self._ids = itertools.count(1)
        self._num_turns = 0
        self._scheduler = Scheduler(config)
        self._num_queued = 0
        shape = model.decoder.config
        weight = model.decoder.embed.weight
        is_int8 = config.kv_cache == "int8"
        num_pages = config.kv_cache_bytes // (token_bytes(shape, weight.dtype, is_int8=is_int8) * config.page_tokens)
        if num_pages < 1:
            raise ConfigError(f"kv_cache_bytes is {config.kv_cache_bytes}; not one page of {config.page_tokens} fits")
        num_slots = num_pages * config.page_tokens
        self.max_stream_tokens = config.max_stream_tokens or min(shape.max_positions, num_slots)
        if self.max_stream_tokens > min(shape.max_positions, num_slots):
            raise ConfigError(
                f"max_stream_tokens is {config.max_stream_tokens}; the model has {shape.max_positions} positions and"
                f" the KV cache room for {num_slots} tokens"
            )
        self._runner = Runner(
            model.decoder,
            num_pages=num_pages,
            page_tokens=config.page_tokens,
            max_tokens=config.max_batch_tokens,
            use_native=native_kernels,
            int8_cache=is_int8,
        )
        self._pool = PagePool(num_pages, side_by_side=not self._runner.is_native)
        self._governor = ThreadGovernor(torch.get_num_threads()) if weight.device.type == "cpu" else None

    @property
    def model(self) -> GuardModel:
        """The guard whose heads are read."""
        return self._model

    @property
    def is_native(self) -> bool:
        """Whether native kernels run the decoder; `pack_linears` prepares it for them."""
        return self._runner.is_native

    @property
    def num_streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    @property
    def num_free_pages(self) -> int:
        """Pages of the cache that no stream holds."""
        return self._pool.num_free

    @property
    def num_queued_tokens(self) -> int:
        """Tokens of all streams that wait for a step."""
        return self._num_queued

    def new_id(self) -> int:
        """Return the id of a stream to be opened later; waits for no step."""
        return next(self._ids)

    @_locked
    def open(self, *, owner: str | None = None, stream_id: int | None = None, is_extra: bool = False) -> int:
        """Open an empty stream and return its id.

        Args:
            owner: Whose it is. Steps are divided equally between owners that have work; None is an owner too.
            stream_id: From `new_id`; nothing happens if it is open. By default a new one.
            is_extra: Whether it may be one more than `max_streams`.

        Raises:
            OverloadedError: `max_streams` are open.
        """
        if stream_id in self._streams:
            return stream_id
        if not is_extra and len(self._streams) >= self.config.max_streams:
            raise OverloadedError(f"{len(self._streams)} streams are open, as many as max_streams allows; try later")
        number = self.new_id() if stream_id is None else stream_id
        self._streams[number] = TokenSequence(number, owner)
        return number

    @_locked
    def extend(self, stream_id: int, token_ids: Sequence[int], *, read: Side | None) -> None:
        """Queue new tokens of a stream for the next steps.

        Args:
            stream_id: From `open`.
            token_ids: One or more ids, each in [0, vocab_size).
            read: Whose heads judge these tokens; None if they are only context.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: No ids, one is no whole number or out of range, or `read` is no side.
            ContextLengthError: The stream would exceed `max_stream_tokens`.
            OverloadedError: The queue or the cache is full. As with the others, nothing was queued.
        """
        stream = self._stream(stream_id)
        if read is not None and not isinstance(read, Side):
            raise InputError(f"read is of type {type(read).__name__}; give a Side, or None for context")
        self._check(stream, token_ids)
        self._reserve(stream, len(stream.token_ids) + len(token_ids))
        stream.token_ids += token_ids
        stream.sides += [read] * len(token_ids)
        self._num_queued += len(token_ids)

    @_locked
    def step(self) -> list[StepOutput]:
        """Read queued tokens of all streams in one forward pass.

        Returns:
            The outputs of the tokens that some heads judge, for each stream in order; empty if nothing waits.
        """
        waiting = [stream for stream in self._streams.values() if stream.num_unread]
        if not waiting:
            return []
        waiting.sort(key=lambda stream: stream.last_turn)
        batch = self._scheduler.schedule(waiting)
        with self._threads():
            outputs = self._read_heads(batch, self._runner.forward(batch))
        for stream, count in batch:  # last of all: a pass that fails has judged nothing
            self._num_queued -= stream.advance(count)
            self._num_turns += 1
            stream.last_turn = self._num_turns
        return outputs

    @_locked
    def truncate(self, stream_id: int, length: int) -> None:
        """Drop a stream's tokens from `length` on, queued or read.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: Not from 0 up to the stream's length.
        """
        stream = self._stream(stream_id)
        if type(length) is not int or not 0 <= length <= len(stream.token_ids):
            raise InputError(f"length is {length!r}; it must be a whole number from 0 to {len(stream.token_ids)}")
        self._num_queued -= stream.num_unjudged
        stream.truncate(length)
        self._num_queued += stream.num_unjudged
        kept = self._pages_for(length if stream.num_unjudged else stream.num_cached)
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
        other = self._streams[self.open(owner=stream.owner)]
        other.token_ids, other.sides = list(stream.token_ids), list(stream.sides)
        other.num_cached, other.num_judged = stream.num_cached, stream.num_judged
        other.pages, other.last_turn = list(stream.pages), stream.last_turn
        self._pool.share(other.pages)
        return other.id

    @_locked
    def close(self, stream_id: int) -> None:
        """Free everything a stream holds. Closing one that is closed does nothing."""
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._pool.release(stream.pages)
            self._num_queued -= stream.num_unjudged

    @_locked
    def recover(self, keep: Collection[int]) -> None:
        """Be consistent again after an error that no method states, at whatever point it was raised.

        Tokens that waited for a step are dropped. Those read before stay; they are read into the cache again when
        their stream goes on.

        Args:
            keep: Streams that stay open; all others are closed.
        """
        self._pool.clear()
        self._streams = {stream_id: stream for stream_id, stream in self._streams.items() if stream_id in keep}
        for stream in self._streams.values():
            stream.forget_unjudged()
        self._num_queued = 0

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

    @_locked
    def num_unread(self, stream_id: int) -> int:
        """Return how many tokens the next steps must read for a stream: those queued, and evicted ones before them.

        Raises:
            StreamClosedError: The stream was closed or never opened.
        """
        return self._stream(stream_id).num_unread

    def _threads(self) -> AbstractContextManager[None]:
        if self.config.threads is not None:
            return fixed_threads(self.config.threads)
        return nullcontext() if self._governor is None else self._governor.step()

    def _stream(self, stream_id: int) -> TokenSequence:
        try:
            return self._streams[stream_id]
        except KeyError:
            raise StreamClosedError(f"stream {stream_id} was closed or never opened") from None

    def _check(self, stream: TokenSequence, token_ids: Sequence[int]) -> None:
        vocab_size = self._model.decoder.config.vocab_size
        if not isinstance(token_ids, Sequence):
            raise InputError(f"token_ids is of type {type(token_ids).__name__}; give a list of whole numbers")
        if not token_ids:
            raise InputError("token_ids is empty; give at least one id")
        for token_id in token_ids:
            if type(token_id) is not int:
                raise InputError(f"a token id is of type {type(token_id).__name__}; ids must be whole numbers")
        if min(token_ids) < 0 or max(token_ids) >= vocab_size:
            raise InputError(f"a token id is out of range; ids must be from 0 to {vocab_size - 1}")
        length = len(stream.token_ids) + len(token_ids)
        if length > self.max_stream_tokens:
            raise ContextLengthError(f"the stream would have {length} tokens; at most {self.max_stream_tokens} fit")
        queued = self._num_queued + len(token_ids)
        if queued > self.config.max_queued_tokens:
            raise OverloadedError(
                f"{queued} tokens would be queued; max_queued_tokens is {self.config.max_queued_tokens}; try later"
            )

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.config.page_tokens)

    def _reserve(self, stream: TokenSequence, length: int) -> None:
        """Give a stream pages for `length` tokens, of its own from the next one on."""
        self._make_room(stream, length)
        page_tokens = self.config.page_tokens
        index, num_kept = divmod(stream.num_cached, page_tokens)
        if num_kept and self._pool.num_users(stream.pages[index]) > 1:
            shared = stream.pages[index]
            (own,) = self._pool.take(1, after=stream.pages[index - 1] if index else None)
            self._runner.copy_page(shared, own)
            self._pool.release([shared])
            stream.pages[index] = own
        missing = self._pages_for(length) - len(stream.pages)
        stream.pages += self._pool.take(missing, after=stream.pages[-1] if stream.pages else None)

    def _make_room(self, stream: TokenSequence, length: int) -> None:
        """Evict streams that wait for nothing, the longest unused first, until `_reserve` finds enough free pages."""
        if self._num_missing(stream, length) <= self._pool.num_free:
            return
        idle = [each for each in self._streams.values() if each.pages and not each.num_unjudged and each is not stream]
        users = Counter(page for each in idle for page in each.pages)
        num_evictable = sum(self._pool.num_users(page) == count for page, count in users.items())
        needed = self._num_missing(stream, length, evicted=users)
        if needed > self._pool.num_free + num_evictable:
            raise OverloadedError(
                f"the KV cache has {self._pool.num_free} free pages and {num_evictable} that idle streams hold;"
                f" {needed} are needed; try again later"
            )
        for other in sorted(idle, key=lambda each: each.last_turn):
            self._pool.release(other.pages)
            other.pages, other.num_cached = [], 0
            if self._num_missing(stream, length) <= self._pool.num_free:
                return

    def _num_missing(self, stream: TokenSequence, length: int, *, evicted: Mapping[int, int] | None = None) -> int:
        """Count the pages `_reserve` takes, if the users of pages in `evicted` were gone."""
        missing = self._pages_for(length) - len(stream.pages)
        index, num_kept = divmod(stream.num_cached, self.config.page_tokens)
        if num_kept:
            page = stream.pages[index]
            missing += self._pool.num_users(page) - (evicted or {}).get(page, 0) > 1
        return missing

    @torch.inference_mode()
    def _read_heads(self, batch: Sequence[tuple[TokenSequence, int]], hidden_TD: Tensor) -> list[StepOutput]:
        runs: dict[Side, list[tuple[TokenSequence, int, range]]] = {side: [] for side in Side}
        offset = 0
        for stream, count in batch:
            for start, end, side in stream.judged_runs(stream.num_cached, stream.num_cached + count):
                first_row = offset + start - stream.num_cached
                runs[side].append((stream, start, range(first_row, first_row + end - start)))
            offset += count
        outputs: list[StepOutput] = []
        for side, found in runs.items():
            if found:
                rows = [row for _, _, rows in found for row in rows]
                heads = self._model.heads(side)
                logits = heads(_rows(hidden_TD, rows, any_number=isinstance(heads, NativeHeads)))
                lengths = [len(rows) for _, _, rows in found]
                risks = logits.risk_TR[: len(rows)].softmax(dim=-1).cpu().split(lengths)
                categories = logits.category_TC[: len(rows)].softmax(dim=-1).cpu().split(lengths)
                for (stream, start, _), risk, category in zip(found, risks, categories, strict=True):
                    outputs.append(StepOutput(stream.id, start, side, risk, category))
        return sorted(outputs, key=lambda output: (output.stream_id, output.position))


def _rows(hidden_TD: Tensor, rows: list[int], *, any_number: bool) -> Tensor:
    """Return the hidden states of some tokens, ascending; with padding unless any number of them is welcome."""
    if any_number and rows[-1] - rows[0] == len(rows) - 1:
        return hidden_TD[rows[0] : rows[-1] + 1]
    padding = [] if any_number else [0] * (round_size(len(rows)) - len(rows))
    return hidden_TD[torch.tensor(rows + padding, device=hidden_TD.device)]
