"""Plots as SVG text, for a page that needs nothing beside itself."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from textwrap import fill
from typing import Any, Concatenate, ParamSpec

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from streamward.evals.fitness import MOST_TO_BLOCK, MOST_TO_BLOCK_WITH_APPEAL
from streamward.evals.report_model import Bin, Calibration, CategoryTable, CurvePoint, Estimate, Leak, Onset

COLOURS = ("#1f4e9c", "#d9772b", "#2f8f5b", "#9b3d8f", "#7a6a3a", "#3aa3a8")
_MUTED, _GRID, _INK = "#8a94a3", "#e3e7ee", "#222b38"
_PAPER = "#fefefe"
_GOOD, _FAIR, _POOR = "#2f8f5c", "#d9772c", "#c0392b"
_MEANING = {"recall": COLOURS[0], "false positives": _POOR}
"""Colours of what is good or bad whatever stands beside it."""
_ONSET_COLOURS = {
    "early": "#8fa8d6",
    "exact": "#2f8f5b",
    "within_8": "#a6cf8b",
    "within_32": "#e8d37a",
    "within_128": "#e3a552",
    "late": "#cf6a3f",
    "missed": "#a02c3a",
}
_VARIABLES = {
    "ink": _INK,
    "muted": _MUTED,
    "grid": _GRID,
    "paper": _PAPER,
    "good": _GOOD,
    "fair": _FAIR,
    "poor": _POOR,
    **{str(place): colour for place, colour in enumerate(COLOURS)},
}
_STYLE: dict[Any, Any] = {  # Any: matplotlib lists every key it knows as a literal
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Picture:
    """One plot as SVG text, for wide and for narrow pages."""

    wide: str
    narrow: str


@dataclass(frozen=True, slots=True)
class _Canvas:
    """Size of a plot.

    Attributes:
        width: In inches, at which letters have their size.
        is_narrow: True for the width of a phone: labels stand above what they name, panels below each other.
    """

    width: float
    is_narrow: bool


_WIDE, _NARROW = _Canvas(8.6, is_narrow=False), _Canvas(3.6, is_narrow=True)


def _drawn_twice(draw: Callable[Concatenate[_Canvas, P], str]) -> Callable[P, Picture]:
    """Have a plot drawn for wide and for narrow pages."""

    @wraps(draw)
    def picture(*args: P.args, **settings: P.kwargs) -> Picture:
        with matplotlib.rc_context(_STYLE):
            return Picture(draw(_WIDE, *args, **settings), draw(_NARROW, *args, **settings))

    return picture


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one guard or operating point, one per label; None where there is none."""

    name: str
    values: Sequence[Estimate | None]
    is_hollow: bool = False


@_drawn_twice
def dot_plot(
    canvas: _Canvas, labels: Sequence[str], series: Sequence[Series], *, xlabel: str, marks: Mapping[str, float]
) -> str:
    """Draw values with their intervals, one row per label.

    Args:
        canvas: Size of the plot.
        labels: From top to bottom.
        series: Drawn on each line, a little apart.
        xlabel: What the values are; they run from 0 to 1.
        marks: Published values by label, drawn as bars across the line.
    """
    figure, axes = _new(canvas, 1.2 + (0.42 if canvas.is_narrow else 0.3) * len(labels))
    shift = 0.5 / max(1, len(series))
    for index, each in enumerate(series):
        colour = COLOURS[(index // 2 if any(one.is_hollow for one in series) else index) % len(COLOURS)]
        offset = (index - (len(series) - 1) / 2) * shift
        points = [(value, line + offset) for line, value in enumerate(each.values) if value is not None]
        for value, height in points:
            axes.plot([value.low, value.high], [height, height], color=colour, lw=1.2, alpha=0.55)
        face = _PAPER if each.is_hollow else colour
        xs, ys = [value.value for value, _ in points], [height for _, height in points]
        axes.plot(xs, ys, "o", ms=5, mfc=face, mec=colour, label=each.name)
    heights = {label: line for line, label in enumerate(labels)}
    marked = [(value, heights[label]) for label, value in marks.items() if label in heights]
    if marked:
        axes.plot(
            *zip(*marked, strict=True), "|", ms=11, mew=2, color=_MUTED, label="Qwen3Guard-0.6B-Gen strict (published)"
        )
    if canvas.is_narrow:
        _label_above(axes, labels, 0.22)
    else:
        axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.8 if canvas.is_narrow else -0.6)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside lower center", ncols=1 if canvas.is_narrow else 3)
    return _svg(figure)


@_drawn_twice
def scatter(canvas: _Canvas, points: Sequence[tuple[str, float, float, int]], *, groups: Sequence[str]) -> str:
    """Draw recall against false positives of each set.

    Args:
        canvas: Size of the plot.
        points: Label, false-positive rate, recall, index of the group.
        groups: Names for the legend.
    """
    figure, axes = _new(canvas, 4.0 + 0.16 * len(points) if canvas.is_narrow else 5.2)
    for index, group in enumerate(groups):
        own = [(x, y) for _, x, y, which in points if which == index]
        if own:
            axes.plot(*zip(*own, strict=True), "o", ms=6, alpha=0.85, color=COLOURS[index % len(COLOURS)], label=group)
    axes.plot([0, 1], [0, 1], "--", color=_MUTED, lw=1, label="chance")
    for start, until, colour in (
        (-0.01, MOST_TO_BLOCK, _GOOD),
        (MOST_TO_BLOCK, MOST_TO_BLOCK_WITH_APPEAL, _FAIR),
        (MOST_TO_BLOCK_WITH_APPEAL, 1.02, _POOR),
    ):
        axes.axvspan(start, until, color=colour, alpha=0.1, lw=0)
    end = min(1.02, 1.25 * max([0.25, *(x for _, x, _, _ in points)]))
    axes.set_xlim(-0.01, end)
    xlabel = "false positives: safe rows flagged"
    labels = [label for label, *_ in points]
    if canvas.is_narrow and any(labels):  # no room for names beside the dots
        xlabel += "\n" + "\n".join(f"{number} {label}" for number, label in enumerate(labels, 1))
        labels = [str(number) for number, _ in enumerate(labels, 1)]
    for label, (_, x, y, _) in zip(labels, points, strict=True):
        axes.annotate(label, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7, color=_INK)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("recall: unsafe rows flagged")
    axes.legend(loc="lower right")
    return _svg(figure)


@_drawn_twice
def reliability(canvas: _Canvas, calibrations: Mapping[str, Calibration]) -> str:
    """Draw reliability diagrams side by side; the area of a dot is its share of the rows."""
    figure, panels = _new_panels(canvas, 3.6, count=len(calibrations))
    for each, (name, value) in zip(panels, calibrations.items(), strict=True):
        bins: Sequence[Bin] = value.bins
        each.plot([0, 1], [0, 1], "--", color=_MUTED, lw=1)
        xs, ys = [one.mean_risk for one in bins], [one.unsafe_share for one in bins]
        each.plot(xs, ys, "-", color=COLOURS[0], lw=1)
        each.scatter(xs, ys, s=[20 + 400 * one.rows / value.rows for one in bins], color=COLOURS[0], alpha=0.7)
        each.set_title(f"{name}s: ECE {value.ece:.3f}")
        each.set_xlabel("risk the guard gives")
        each.set_ylabel("share that is unsafe")
        each.set_xlim(-0.03, 1.03)
        each.set_ylim(-0.03, 1.03)
    return _svg(figure)


@_drawn_twice
def confusion(canvas: _Canvas, table: CategoryTable) -> str:
    """Draw a category table; the colour says whether the name is right, its strength the share of the row."""
    lines = [(name, row) for name, row in zip(table.names, table.counts, strict=False) if any(row)]
    shares = [[value / sum(row) for value in row] for _, row in lines]
    figure, axes = _new(canvas, 1.7 + 0.36 * len(lines))
    letters = 6 if canvas.is_narrow else 8
    axes.grid(visible=False)
    for line, (name, row) in enumerate(lines):
        for column, value in enumerate(row):
            if value:
                colour = _cell_colour(table.names[column], name, is_last=column == len(row) - 1)
                share = shares[line][column]
                place = (column - 0.48, line - 0.46)
                axes.add_patch(Rectangle(place, 0.96, 0.92, color=colour, lw=0, alpha=0.12 + 0.48 * share))
                axes.text(
                    column,
                    line,
                    str(value),
                    ha="center",
                    va="center",
                    fontsize=letters,
                    color=_INK,
                )
    axes.set_xlim(-0.5, len(table.names) - 0.5)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    if canvas.is_narrow:
        axes.set_xticks(range(len(table.names)), [fill(name, 18) for name in table.names], rotation=90, fontsize=7)
        axes.set_yticks(range(len(lines)), [fill(name, 14) for name, _ in lines], fontsize=7)
    else:
        axes.set_xticks(range(len(table.names)), table.names, rotation=35, ha="right")
        axes.set_yticks(range(len(lines)), [name for name, _ in lines])
    axes.set_xlabel("what the guard says")
    axes.set_ylabel("what people say")
    return _svg(figure)


def _cell_colour(said: str, expected: str, *, is_last: bool) -> str:
    """Return the colour of a category by what it means; the last column is of texts that were not flagged."""
    if is_last:
        return _POOR
    return COLOURS[0] if said == expected else _FAIR


@_drawn_twice
def stream_curves(canvas: _Canvas, curves: Mapping[str, Sequence[CurvePoint]]) -> str:
    """Draw recall against false stops over all thresholds, one curve per set."""
    figure, axes = _new(canvas, 4.4)
    for index, (name, points) in enumerate(curves.items()):
        xs = [0.0, *(each.false_stop_rate for each in points)]
        ys = [0.0, *(each.recall for each in points)]
        style = "-" if index < len(COLOURS) else "--"
        axes.plot(xs, ys, style, lw=1.4, color=COLOURS[index % len(COLOURS)], label=name)
    axes.plot([0, 1], [0, 1], ":", color=_MUTED, lw=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false stops: harmless streams stopped")
    axes.set_ylabel("recall: unsafe streams stopped")
    if canvas.is_narrow:
        figure.legend(loc="outside lower center", fontsize=8)
    else:
        axes.legend(loc="lower right", fontsize=8)
    return _svg(figure)


@_drawn_twice
def leak_curves(canvas: _Canvas, curves: Mapping[str, Sequence[Leak]]) -> str:
    """Draw the harmful tokens that get out against the tokens held back, and the share of clean streams."""
    figure, (left, right) = _new_panels(canvas, 3.4, count=2)
    for index, (name, leaks) in enumerate(curves.items()):
        xs, colour = [each.hold_back for each in leaks], COLOURS[index % len(COLOURS)]
        left.plot(xs, [each.mean_tokens for each in leaks], "o-", ms=4, color=colour, label=name)
        right.plot(xs, [each.clean_share for each in leaks], "o-", ms=4, color=colour, label=name)
    for axes in (left, right):
        axes.set_xlabel("tokens held back")
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xticks([0, 1, 2, 4, 8, 16, 32], ["0", "1", "2", "4", "8", "16", "32"])
    left.set_ylabel("harmful tokens that got out, mean")
    left.set_ylim(bottom=0)
    right.set_ylabel("streams without a harmful token")
    right.set_ylim(0, 1.02)
    left.legend(fontsize=8)
    return _svg(figure)


@_drawn_twice
def onset_bars(canvas: _Canvas, onsets: Mapping[str, Onset]) -> str:
    """Draw where streams were stopped, a bar a set."""
    figure, axes = _new(canvas, 1.3 + (0.5 if canvas.is_narrow else 0.36) * len(onsets))
    starts = [0.0] * len(onsets)
    for name, colour in _ONSET_COLOURS.items():
        widths = [getattr(each, name) / each.streams for each in onsets.values()]
        axes.barh(list(onsets), widths, left=starts, color=colour, label=name.replace("_", " "), height=0.5)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    if canvas.is_narrow:
        _label_above(axes, list(onsets), 0.27)
    axes.set_xlabel("share of streams with a marked harmful part")
    figure.legend(loc="outside lower center", ncols=3 if canvas.is_narrow else 7, fontsize=8)
    return _svg(figure)


@_drawn_twice
def paired_bars(
    canvas: _Canvas, labels: Sequence[str], bars: Mapping[str, Sequence[float | None]], *, ylabel: str
) -> str:
    """Draw bars side by side for each label."""
    figure, axes = _new(canvas, 3.2)
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        xs = [place + (index - (len(bars) - 1) / 2) * width for place in range(len(labels))]
        colour = _MEANING.get(name, COLOURS[index % len(COLOURS)])
        axes.bar(xs, [value or 0.0 for value in values], width, color=colour, label=name)
    axes.axhline(0, color=_MUTED, lw=0.8)
    axes.grid(visible=False, axis="x")
    if canvas.is_narrow:
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    else:
        axes.set_xticks(range(len(labels)), labels, rotation=40 if len(labels) > 12 else 20, ha="right")
    axes.set_ylabel(ylabel)
    figure.legend(loc="outside upper right", ncols=2)
    return _svg(figure)


def _new(canvas: _Canvas, height: float) -> Any:  # Any: matplotlib has no types
    figure = Figure(figsize=(canvas.width, height), layout="constrained")
    return figure, figure.subplots()


def _new_panels(canvas: _Canvas, height: float, *, count: int) -> Any:  # Any: matplotlib has no types
    """Make panels side by side, or below each other where there is no room."""
    rows, columns = (count, 1) if canvas.is_narrow else (1, count)
    width = canvas.width if canvas.is_narrow or count > 1 else canvas.width / 2
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).flat


def _label_above(axes: Any, labels: Sequence[str], distance: float) -> None:  # Any: matplotlib has no types
    """Set the labels of lines above them instead of beside them, so that the axis has the whole width."""
    axes.set_yticks(range(len(labels)), [""] * len(labels))
    for line, label in enumerate(labels):
        axes.text(0.0, line - distance, label, fontsize=8, va="bottom", ha="left")


def _svg(figure: Any) -> str:  # Any: matplotlib has no types
    buffer = io.StringIO()
    # The salt keeps names within one page apart, and the same from run to run.
    salt = str(figure.get_figwidth()) + "".join(
        text.get_text()
        for axes in figure.axes
        for text in [*axes.texts, axes.xaxis.label, axes.title, *axes.get_yticklabels()]
    )
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return _schemed(text[text.index("<svg") :])


def _schemed(svg: str) -> str:
    """Let the page that a drawing stands in choose its colours, for light and dark schemes."""
    for name, colour in _VARIABLES.items():
        svg = svg.replace(f": {colour}", f": var(--plot-{name}, {colour})")
    return svg
