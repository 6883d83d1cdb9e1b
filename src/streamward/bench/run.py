"""`streamward bench`: what a chunk of new tokens costs, and how far that is from the floor."""

import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from streamward.bench import paths
from streamward.bench.shapes import linear_bytes, random_guard
from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.model.packing import pack_linears, serving_dtype

CONTEXT = 512
CHUNKS = (1, 4, 16)
STREAM_COUNTS = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement.

    Attributes:
        path: `append` (ours), `reread` (our decoder, no cache), `reread-transformers` (the published behaviour).
        k: New tokens of each stream.
        ms: Median time to judge them, milliseconds.
        floor_ms: Time to read the weights once at the measured memory bandwidth.
    """

    path: str
    shape: str
    dtype: str
    context: int
    k: int
    streams: int
    ms: float
    tokens_per_s: float
    floor_ms: float


def main_bench(*, shape: str = "0.6b", quick: bool = False, json_path: Path | None = None) -> None:
    """Measure, print a table and the ratios, and write one record a line if asked.

    Args:
        shape: One of `streamward.bench.shapes.SHAPES`.
        quick: Fewer repetitions, one stream only.
        json_path: Where the records go, as JSON lines.

    Raises:
        InputError: There is no such shape.
    """
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {_versions()}")
    bench = _Bench(shape, repeats=5 if quick else 15)
    records = []
    table = _table()
    for record in bench.records(stream_counts=STREAM_COUNTS[:1] if quick else STREAM_COUNTS):
        records.append(record)
        _add(table, record)
    console.print(table)
    for line in [*_ratios(records), bench.contention()]:
        console.print(line, soft_wrap=True)
    if json_path is not None:
        json_path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records), encoding="utf-8")


class _Bench:
    def __init__(self, shape: str, *, repeats: int) -> None:
        self.shape = shape
        self.repeats = repeats
        self.dtype = serving_dtype()
        model = random_guard(shape, dtype=self.dtype)
        self.floor_ms = linear_bytes(model) / paths.read_bandwidth() * 1e3
        pack_linears(model)
        self.model = model
        self.engine = Engine(EngineConfig(), model=model)

    def records(self, *, stream_counts: Sequence[int]) -> Iterator[Record]:
        """Measure the paths one after the other; slow ones less often."""
        for streams in stream_counts:
            for k in CHUNKS:
                step, close = paths.appending(self.engine, context=CONTEXT, k=k, streams=streams)
                yield self._record("append", k, streams, paths.median_seconds(step, repeats=self.repeats))
                close()
        reread = paths.rereading(self.model, context=CONTEXT)
        yield self._record("reread", 1, 1, paths.median_seconds(reread, repeats=3, warmup=1))
        if self.shape != "135m":
            try:
                reread = paths.rereading_with_transformers(self.shape, context=CONTEXT, dtype=self.dtype)
            except ImportError:
                print("transformers is not installed: the published behaviour is not measured", file=sys.stderr)
                return
            yield self._record("reread-transformers", 1, 1, paths.median_seconds(reread, repeats=3, warmup=1))

    def contention(self) -> str:
        """Compare a chunk's time alone and while another process holds one core."""
        step, close = paths.appending(self.engine, context=CONTEXT, k=16)
        times = max(40, 4 * self.repeats)
        alone = sum(paths.timed(step, repeats=times))
        with paths.busy_core():
            shared = sum(paths.timed(step, repeats=times, warmup=0))
        close()
        return f"with another process holding one core: {alone / shared:.2f} of the speed alone"

    def _record(self, path: str, k: int, streams: int, seconds: float) -> Record:
        dtype = str(self.dtype).removeprefix("torch.")
        tokens_per_s = k * streams / seconds
        return Record(
            path,
            self.shape,
            dtype,
            CONTEXT,
            k,
            streams,
            ms=round(seconds * 1e3, 2),
            tokens_per_s=round(tokens_per_s, 1),
            floor_ms=round(self.floor_ms, 2),
        )


def _ratios(records: Sequence[Record]) -> Iterator[str]:
    by_path: Mapping[str, Record] = {record.path: record for record in records if record.path != "append"}
    chunk = next(record for record in records if record.path == "append" and record.k == 16 and record.streams == 1)
    for path, record in by_path.items():
        ratio = 16 * record.ms / chunk.ms
        yield f"{path}: judging 16 tokens one by one costs {ratio:.0f} times our chunk of 16 (context {CONTEXT})"


def _table() -> Table:
    table = Table(title="Judging new tokens of a stream")
    for name in ("path", "shape", "dtype", "context", "k", "streams", "ms", "tokens/s", "floor ms"):
        table.add_column(name, justify="left" if name in ("path", "shape", "dtype") else "right")
    return table


def _add(table: Table, record: Record) -> None:
    table.add_row(*(str(value) for value in asdict(record).values()))


def _versions() -> str:
    return f"Python {platform.python_version()}, torch {torch.__version__}"
