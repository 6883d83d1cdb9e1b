"""One measurement, and how a list of them is shown."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement.

    Attributes:
        path: `append` (ours), `append-torch` (ours without native kernels), `transformers-cache` (its DynamicCache),
            `reread` (our decoder, no cache), `reread-transformers` (the published behaviour).
        dtype: Data type of weights and cache; `int8` for weights of 8 bits over a cache of bfloat16.
        context: Tokens of each stream in the cache.
        k: New tokens of each stream.
        ms: Median time to judge them, milliseconds.
        roofline_ms: Roofline time of such a step on this machine, milliseconds; for paths without a cache, of a step
            with one.
    """

    path: str
    shape: str
    dtype: str
    context: int
    k: int
    streams: int
    ms: float
    tokens_per_s: float
    roofline_ms: float


def table(records: Sequence[Record]) -> Table:
    """Show records, with the ratio of each to its roofline."""
    shown = Table(title="Judging new tokens")
    columns = ("path", "shape", "dtype", "context", "k", "streams", "ms", "tokens/s", "roofline ms", "x roofline")
    for name in columns:
        shown.add_column(name, justify="left" if name in columns[:3] else "right")
    for record in records:
        shown.add_row(*(str(value) for value in asdict(record).values()), f"{record.ms / record.roofline_ms:.2f}")
    return shown


def ratios(records: Sequence[Record]) -> Iterator[str]:
    """Say how many times our chunk of 16 the other paths cost, for each shape and context."""
    ours = {(each.shape, each.context): each for each in records if _is_chunk(each) and each.path == "append"}
    for record in records:
        chunk = ours.get((record.shape, record.context))
        if chunk is None or record.streams != 1 or record is chunk:
            continue
        where = f"{record.shape}, context {record.context}: {record.path} {record.dtype}"
        if record.path.startswith("reread"):
            yield f"{where}, 16 tokens one by one: {16 * record.ms / chunk.ms:.0f} times our chunk of 16"
        elif record.k == 16:
            yield f"{where}, a chunk of 16: {record.ms / chunk.ms:.2f} times ours in {chunk.dtype}"


def _is_chunk(record: Record) -> bool:
    return record.k == 16 and record.streams == 1 and record.dtype != "int8"
