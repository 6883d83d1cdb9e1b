"""Many streams of tokens, one batched forward pass per step, one paged KV cache. No text."""

import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from streamward.engine.cache_manager import KVCacheManager
from streamward.engine.config import EngineConfig
from streamward.engine.model_runner import ModelOutput, ModelRunner
from streamward.engine.outputs import EngineStatistics, StepOutput
from streamward.engine.probes import ProbeSet, TokenProbe
from streamward.engine.scheduler import Scheduler
from streamward.engine.sequence import TokenSequence
from streamward.engine.step_plan import StepPlan
from streamward.errors import ConfigError, ContextLengthError, InputError, OverloadedError, StreamClosedError
from streamward.model.guard_config import GuardConfig
from streamward.schema import Side

P = ParamSpec("P")
R = TypeVar("R")


def _locked(method: "Callable[Concatenate[Engine, P], R]") -> "Callable[Concatenate[Engine, P], R]":
    @wraps(method)
    def call(self: "Engine", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return call


class Engine:
    """Scores streams of tokens with a Stream guard. Thread-safe: one call at a time.

    Idle streams may be evicted when the cache is full; they are computed again when they go on, and scores already
    returned are not repeated.
    """

    def __init__(self, config: EngineConfig, runner: ModelRunner) -> None:
        """Take over a runner.

        Args:
            config: Limits; those of the cache must be the ones the runner was made with.
            runner: Holds the guard's weights and the KV cache.

        Raises:
            ConfigError: A limit does not fit the model or the cache.
        """
        self.config = config
        self._runner = runner
        self._lock = threading.RLock()
        self._streams: dict[int, TokenSequence] = {}
        self._ids = itertools.count(1)
        self._num_turns = 0
        self._num_queued = 0
        if runner.num_pages < 1:
            raise ConfigError(f"kv_cache_bytes is {config.kv_cache_bytes}; not one page of {config.page_tokens} fits")
        num_slots, max_positions = runner.num_pages * config.page_tokens, runner.model_config.max_positions
        self.max_stream_tokens = config.max_stream_tokens or min(max_positions, num_slots)
        if self.max_stream_tokens > min(max_positions, num_slots):
            raise ConfigError(
                f"max_stream_tokens is {config.max_stream_tokens}; the model has {max_positions} positions and"
                f" the KV cache room for {num_slots} tokens"
            )
        self._scheduler = Scheduler(config)
        self._cache = KVCacheManager(
            runner.num_pages,
            page_tokens=config.page_tokens,
            copy_page=runner.copy_page,
            side_by_side=runner.prefers_adjacent_pages,
            shares_prefixes=config.prefix_sharing and not runner.prefers_adjacent_pages,
        )
        self._num_computed = 0
        self._probes = ProbeSet(num_layers=runner.model_config.num_layers)

    @property
    def runner(self) -> ModelRunner:
        """The runner of the model."""
        return self._runner

    @property
    def guard_config(self) -> GuardConfig:
        """Labels and operating points of the guard."""
        return self._runner.guard_config

    @property
    def num_streams(self) -> int:
        """Open streams."""
        return len(self._streams)

    @property
    def num_free_pages(self) -> int:
        """Pages of the cache that no stream refers to."""
        return self._cache.num_free

    @property
    def num_queued_tokens(self) -> int:
        """Tokens of all streams that wait for a step."""
        return self._num_queued

    @property
    def statistics(self) -> EngineStatistics:
        """Counts of what was computed so far, and of what was found in the cache instead."""
        return EngineStatistics(self._num_computed, self._cache.num_reused_tokens, self._cache.num_prefix_hits)

    def new_id(self) -> int:
        """Return the id of a stream to be opened later; does not wait for a step."""
        return next(self._ids)

    @_locked
    def add_probe(self, probe: TokenProbe) -> None:
        """Score judged tokens with a probe too, from the next step on; see `streamward.engine.probes`.

        Raises:
            ConfigError: A probe of this name exists, or the model has no such layer.
        """
        self._probes.add(probe)

    @_locked
    def remove_probe(self, name: str) -> None:
        """Stop scoring with a probe; one that does not exist is no error."""
        self._probes.remove(name)

    @_locked
    def open(self, *, owner: str | None = None, stream_id: int | None = None, is_extra: bool = False) -> int:
        """Open an empty stream and return its id.

        Args:
            owner: Key that the stream belongs to. Steps are divided equally between owners with queued tokens; None is
                an owner too.
            stream_id: From `new_id`; nothing happens if it is open. A new id by default.
            is_extra: Whether it may exceed `max_streams` by one.

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
    def extend(self, stream_id: int, token_ids: Sequence[int], *, head: Side | None) -> None:
        """Queue new tokens of a stream for the next steps.

        Args:
            stream_id: From `open`.
            token_ids: One or more ids, each in [0, vocab_size).
            head: Side whose heads score these tokens; None if they are only context.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: There are no ids, one is not an integer or out of range, or `head` is not a side.
            ContextLengthError: The stream would exceed `max_stream_tokens`.
            OverloadedError: The queue or the cache is full. As with the others, nothing was queued.
        """
        sequence = self._sequence(stream_id)
        if head is not None and not isinstance(head, Side):
            raise InputError(f"head is of type {type(head).__name__}; give a Side, or None for context")
        self._check(sequence, token_ids)
        length, num_queued = len(sequence.token_ids), sequence.num_queued
        sequence.append(list(token_ids), head)
        try:
            self._cache.adopt(sequence)
            self._cache.reserve(sequence, len(sequence.token_ids), self._streams.values())
        except OverloadedError:
            sequence.truncate(length)
            self._cache.trim(sequence)
            raise
        finally:
            self._num_queued += sequence.num_queued - num_queued

    @_locked
    def step(self) -> list[StepOutput]:
        """Process queued tokens of all streams in one forward pass.

        Returns:
            The outputs of the tokens that heads score, for each stream in order; empty if there is nothing to process.
        """
        if (plan := self._schedule()) is None:
            return []
        output = self._runner.run(plan.model_input)
        return self._postprocess(plan, output)

    @_locked
    def truncate(self, stream_id: int, length: int) -> None:
        """Remove a stream's tokens from `length` on, queued or processed.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: `length` is not from 0 up to the stream's length.
        """
        sequence = self._sequence(stream_id)
        if type(length) is not int or not 0 <= length <= len(sequence.token_ids):
            raise InputError(f"length is {length!r}; it must be an integer from 0 to {len(sequence.token_ids)}")
        self._num_queued -= sequence.num_queued
        sequence.truncate(length)
        self._num_queued += sequence.num_queued
        self._cache.trim(sequence)

    @_locked
    def fork(self, stream_id: int) -> int:
        """Open a stream that continues from the present end of another; they share the cached pages.

        Raises:
            StreamClosedError: The stream was closed or never opened.
            InputError: The stream has queued tokens; step first.
            OverloadedError: `max_streams` are open.
        """
        sequence = self._sequence(stream_id)
        if sequence.num_queued:
            raise InputError(f"the stream has {sequence.num_queued} queued tokens; step until it has none")
        other = self._streams[self.open(owner=sequence.owner)]
        sequence.copy_to(other)
        self._cache.share(other)
        return other.id

    @_locked
    def close(self, stream_id: int) -> None:
        """Free everything a stream holds. Closing a closed stream does nothing."""
        sequence = self._streams.pop(stream_id, None)
        if sequence is not None:
            self._num_queued -= sequence.num_queued
            self._cache.free(sequence)

    @_locked
    def recover(self, keep: Collection[int]) -> None:
        """Restore consistency after an error that no method documents, wherever it was raised.

        Queued tokens are dropped. Processed ones stay and are computed again when their stream goes on.

        Args:
            keep: Streams that stay open; all others are closed.
        """
        self._cache.clear()
        self._streams = {stream_id: each for stream_id, each in self._streams.items() if stream_id in keep}
        for sequence in self._streams.values():
            sequence.drop_queued()
        self._num_queued = 0

    @_locked
    def length(self, stream_id: int) -> int:
        """Return how many tokens a stream has, queued ones included.

        Raises:
            StreamClosedError: The stream was closed or never opened.
        """
        return len(self._sequence(stream_id).token_ids)

    @_locked
    def num_queued(self, stream_id: int) -> int:
        """Return how many of a stream's tokens wait for a step.

        Raises:
            StreamClosedError: The stream was closed or never opened.
        """
        return self._sequence(stream_id).num_queued

    @_locked
    def num_pending(self, stream_id: int) -> int:
        """Return how many tokens the next steps must process for a stream: queued ones, and evicted ones before them.

        Raises:
            StreamClosedError: The stream was closed or never opened.
        """
        return self._sequence(stream_id).num_pending

    def _sequence(self, stream_id: int) -> TokenSequence:
        try:
            return self._streams[stream_id]
        except KeyError:
            raise StreamClosedError(f"stream {stream_id} was closed or never opened") from None

    def _check(self, sequence: TokenSequence, token_ids: Sequence[int]) -> None:
        vocab_size = self._runner.model_config.vocab_size
        if not isinstance(token_ids, Sequence):
            raise InputError(f"token_ids is of type {type(token_ids).__name__}; give a list of integers")
        if not token_ids:
            raise InputError("token_ids is empty; give at least one id")
        for token_id in token_ids:
            if type(token_id) is not int:
                raise InputError(f"a token id is of type {type(token_id).__name__}; ids must be integers")
        if min(token_ids) < 0 or max(token_ids) >= vocab_size:
            raise InputError(f"a token id is out of range; ids must be from 0 to {vocab_size - 1}")
        length = len(sequence.token_ids) + len(token_ids)
        if length > self.max_stream_tokens:
            raise ContextLengthError(f"the stream would have {length} tokens; at most {self.max_stream_tokens} fit")
        queued = self._num_queued + len(token_ids)
        if queued > self.config.max_queued_tokens:
            raise OverloadedError(
                f"{queued} tokens would be queued; max_queued_tokens is {self.config.max_queued_tokens}; try later"
            )

    def _schedule(self) -> StepPlan | None:
        for sequence in self._streams.values():
            if sequence.num_pending:
                self._num_queued -= self._cache.adopt(sequence)
        pending = [sequence for sequence in self._streams.values() if sequence.num_pending]
        if not pending:
            return None
        pending.sort(key=lambda each: each.last_turn)
        scheduled = self._scheduler.schedule(self._cache.without_followers(pending))
        return StepPlan.of(scheduled, taps=self._probes.taps)

    def _postprocess(self, plan: StepPlan, output: ModelOutput) -> list[StepOutput]:
        """Return the scores by stream and record what was processed; last of all, so a failed pass changes nothing."""
        outputs = plan.outputs(output, self._probes)
        for sequence, count in plan.scheduled:
            self._num_queued -= sequence.advance(count)
            self._cache.note_computed(sequence)
            self._num_computed += count
            self._num_turns += 1
            sequence.last_turn = self._num_turns
        return outputs
