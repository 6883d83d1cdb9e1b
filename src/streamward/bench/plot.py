"""Plot of the records: milliseconds per step over the context length, one curve per path."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from streamward.bench.record import Record
from streamward.errors import ConfigError


def plot(records: Sequence[Record], path: Path) -> None:
    """Draw one panel for each shape, one stream with 16 new tokens; `reread` paths are drawn for 16 single tokens.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("a plot needs matplotlib; install streamward[eval]") from error
    shapes = list(dict.fromkeys(record.shape for record in records))
    figure = Figure(figsize=(6 * len(shapes), 4.5), layout="constrained")
    for axes, shape in zip(figure.subplots(1, len(shapes), squeeze=False)[0], shapes, strict=True):
        for name, points in _lines([record for record in records if record.shape == shape]).items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        axes.set(title=shape, xlabel="tokens in the context", ylabel="ms for 16 new tokens", xscale="log", yscale="log")
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _lines(records: Sequence[Record]) -> dict[str, list[tuple[int, float]]]:
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for record in records:
        if record.streams != 1:
            continue
        if record.path.startswith("reread"):
            lines[f"{record.path}, one by one"].append((record.context, 16 * record.ms))
        elif record.k == 16:
            lines[f"{record.path} {record.dtype}"].append((record.context, record.ms))
            if (record.path, record.dtype) == ("append", "bfloat16"):
                lines["roofline"].append((record.context, record.roofline_ms))
    return lines
