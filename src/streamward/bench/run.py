"""`streamward bench`: time per new token on each path, and its ratio to the roofline."""

import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from streamward.bench import backends, reference
from streamward.bench.plot import plot
from streamward.bench.record import Record, ratios, table
from streamward.bench.roofline import MachineLimits, decoder_weights, faster, measure_machine, roofline_step_s
from streamward.bench.shapes import SHAPES, linear_bytes, random_guard, rounded
from streamward.bench.startup import ready_s, text_side
from streamward.bench.timing import median_seconds, timed
from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.native_runner import NativeModelRunner
from streamward.engine.torch_runner import TorchModelRunner
from streamward.kernels.cache import decoder_page_bytes
from streamward.kernels.library import available_units
from streamward.kernels.quantization import GROUP
from streamward.model.packing import pack_linears, serving_dtype
from streamward.model.torch_parameters import parameters_of

CHUNKS = (1, 4, 16)
CONTEXTS = (128, 512, 2048, 8176)  # the last chunk of 16 ends at the last of 8,192 positions
STREAM_COUNTS = (8, 32, 128)
SHARED_CONTEXT = 512
QUICK_CONTEXTS = (512,)
MIN_SECONDS = 1.5
"""Minimum time that the repetitions of a measurement take together, in seconds; a fifth of it in a quick run."""
INT8_CACHE = "int8, cache int8"
"""Weights of 8 bits, and keys and values too."""


def main_bench(
    *, shapes: Sequence[str], quick: bool = False, json_path: Path | None = None, plot_path: Path | None = None
) -> None:
    """Measure, print a table and ratios, and optionally write one record per line.

    Args:
        shapes: Names out of `streamward.bench.shapes.SHAPES`.
        quick: One context, one stream, fewer repetitions.
        json_path: Where the records go, as JSON lines.
        plot_path: Where a picture goes.

    Raises:
        InputError: There is no such shape.
        ConfigError: A plot was asked for and matplotlib is not installed.
    """
    console = Console(width=None if sys.stdout.isatty() else 110)
    dtype = serving_dtype()
    machine = measure_machine(dtype)
    console.print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {_versions()}")
    console.print(f"reads {machine.bytes_per_s / 1e9:.1f} GB/s, multiplies {machine.flops_per_s / 1e9:.0f} GFLOP/s")
    records: list[Record] = []
    lines: list[str] = []
    for shape in shapes:
        bench = _Bench(shape, machine, dtype=dtype, quick=quick)
        for record in bench.records():
            records.append(record)
            if json_path is not None:  # written at once, because a run takes minutes and may be interrupted
                _write_records(json_path, records)
            print(json.dumps(asdict(record)), file=sys.stderr, flush=True)
        lines += [bench.memory(), bench.contention()]
    console.print(table(records))
    for line in [*ratios(records), *lines, *_embedded()]:
        console.print(line, soft_wrap=True)
    if plot_path is not None:
        plot(records, plot_path)


def _write_records(path: Path, records: Sequence[Record]) -> None:
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records), encoding="utf-8")


def _embedded() -> Iterator[str]:
    yield f"the embedded guard is ready {ready_s(repeats=2):.2f} s after its process started"
    text = text_side(num_words=200)
    yield (
        f"the embedded guard fed word by word: {text.feed_ms:.1f} ms per word, of which"
        f" {text.feed_ms - text.step_ms:.2f} ms outside the engine's steps"
    )


class _Bench:
    """All measurements of one shape."""

    def __init__(self, shape: str, machine: MachineLimits, *, dtype: torch.dtype, quick: bool) -> None:
        self.shape = shape
        self._machine = machine
        self._dtype = dtype
        self._contexts = QUICK_CONTEXTS if quick else CONTEXTS
        self._stream_counts = () if quick else STREAM_COUNTS
        self._repeats = 5 if quick else 11
        self._min_seconds = MIN_SECONDS / 5 if quick else MIN_SECONDS
        self._model = random_guard(shape, dtype=dtype)
        self._full_bytes = linear_bytes(self._model)
        self._has_kernels = bool(available_units())
        self._engine = self._make_engine()

    def records(self) -> Iterator[Record]:
        """Measure path after path; slow ones less often."""
        yield from self._appending(self._engine, "append", self._name(), weight_bytes=self._full_bytes)
        yield from self._many(self._engine, self._name(), weight_bytes=self._full_bytes)
        if self._has_kernels:
            plain = self._make_engine(native=False)
            yield from self._appending(plain, "append-torch", self._name(), weight_bytes=self._full_bytes)
        if self._has_kernels:
            yield from self._int8(int8_cache=False)  # one engine at a time: the caches of 128 streams are large
            yield from self._int8(int8_cache=True)
        yield from self._rereading()

    def memory(self) -> str:
        """Say what one stream takes of the cache."""
        config = self._engine.config
        pages = -(-SHARED_CONTEXT // config.page_tokens)
        full, rounded = (
            pages * config.page_tokens * self._token_bytes(int8_cache) / 1e6 for int8_cache in (False, True)
        )
        return (
            f"{self.shape}: a stream of {SHARED_CONTEXT} tokens takes {full:.1f} MB of cache, {rounded:.1f} MB with"
            " keys and values of 8 bits"
        )

    def _token_bytes(self, int8_cache: bool) -> int:
        config = SHAPES[self.shape]
        return decoder_page_bytes(
            num_layers=config.num_layers,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            page_tokens=1,
            is_int8=int8_cache,
        )

    def contention(self) -> str:
        """Compare a chunk's time alone and while another process holds one core."""
        step, close = backends.appending(self._engine, context=SHARED_CONTEXT, k=16)
        times = 8 * self._repeats
        alone = sum(timed(step, repeats=times))
        with backends.busy_core():
            shared = sum(timed(step, repeats=times, warmup=0))
        close()
        return f"{self.shape}: {alone / shared:.2f} of the speed while another process holds one core"

    def _make_engine(self, *, native: bool = True, int8: bool = False, int8_cache: bool = False) -> Engine:
        tokens = max(self._contexts[-1] + 64, *(count * (SHARED_CONTEXT + 64) for count in (1, *self._stream_counts)))
        config = EngineConfig(
            kv_cache_bytes=tokens * self._token_bytes(int8_cache), kv_cache="int8" if int8_cache else "full"
        )
        if native and self._has_kernels:
            parameters = parameters_of(self._model)
            return Engine(config, NativeModelRunner(rounded(parameters) if int8 else parameters, config))
        model = random_guard(self.shape, dtype=self._dtype)
        pack_linears(model)
        return Engine(config, TorchModelRunner(model, config))

    def _appending(self, engine: Engine, path: str, dtype: str, *, weight_bytes: int) -> Iterator[Record]:
        for context in self._contexts:
            # A rate that was reached once is possible.
            self._machine = faster(self._machine, measure_machine(self._dtype))
            for k in CHUNKS:
                seconds = self._append(engine, context=context, k=k, streams=1, repeats=self._repeats)
                yield self._record(path, context, k, seconds, dtype=dtype, weight_bytes=weight_bytes)

    def _many(self, engine: Engine, dtype: str, *, weight_bytes: int) -> Iterator[Record]:
        for streams in self._stream_counts:
            for k in CHUNKS:
                seconds = self._append(engine, context=SHARED_CONTEXT, k=k, streams=streams, repeats=3)
                yield self._record(
                    "append", SHARED_CONTEXT, k, seconds, streams=streams, dtype=dtype, weight_bytes=weight_bytes
                )

    def _append(self, engine: Engine, *, context: int, k: int, streams: int, repeats: int) -> float:
        step, close = backends.appending(engine, context=context, k=k, streams=streams)
        seconds = median_seconds(step, repeats=repeats, warmup=1, min_seconds=self._min_seconds)
        close()
        return seconds

    def _int8(self, *, int8_cache: bool) -> Iterator[Record]:
        engine = self._make_engine(int8=True, int8_cache=int8_cache)
        num_weights = decoder_weights(self._model)
        weight_bytes = self._full_bytes - num_weights * self._dtype.itemsize + num_weights * (GROUP + 2) // GROUP
        if not int8_cache:
            yield from self._appending(engine, "append", "int8", weight_bytes=weight_bytes)
        yield from self._many(engine, INT8_CACHE if int8_cache else "int8", weight_bytes=weight_bytes)

    def _rereading(self) -> Iterator[Record]:
        for context in self._contexts:
            read = backends.rereading(self._model, context=context)
            yield self._record("reread", context, 1, median_seconds(read, repeats=1, warmup=context < CONTEXTS[-1]))
        try:
            model = reference.reference_model(self.shape, dtype=self._dtype)
        except ImportError:
            print("transformers is not installed: it is not measured", file=sys.stderr)
            return
        for context in self._contexts:
            read = reference.rereading(model, context=context)
            seconds = median_seconds(read, repeats=1, warmup=context < CONTEXTS[-1])
            yield self._record("reread-transformers", context, 1, seconds)
            for k in CHUNKS:
                step = reference.cached(model, context=context, k=k)
                yield self._record("transformers-cache", context, k, median_seconds(step, repeats=5))

    def _record(
        self,
        path: str,
        context: int,
        k: int,
        seconds: float,
        *,
        streams: int = 1,
        dtype: str | None = None,
        weight_bytes: int | None = None,
    ) -> Record:
        size = self._full_bytes if weight_bytes is None else weight_bytes
        roofline_s = roofline_step_s(
            self._model,
            self._machine,
            weight_bytes=size,
            token_bytes=self._token_bytes(dtype == INT8_CACHE),
            context=context,
            k=k,
            streams=streams,
        )
        return Record(
            path,
            self.shape,
            dtype or self._name(),
            context,
            k,
            streams,
            ms=round(seconds * 1e3, 3),
            tokens_per_s=round(k * streams / seconds, 1),
            roofline_ms=round(roofline_s * 1e3, 3),
        )

    def _name(self) -> str:
        return str(self._dtype).removeprefix("torch.")


def _versions() -> str:
    return f"Python {platform.python_version()}, torch {torch.__version__}"
