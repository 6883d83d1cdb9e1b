"""Plots as SVG text, for a page that needs nothing beside itself."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one guard or operating point, one per label; None where there is none."""

    name: str
    values: Sequence[Estimate | None]
    is_hollow: bool = False


@matplotlib.rc_context(_STYLE)
def dot_plot(labels: Sequence[str], series: Sequence[Series], *, xlabel: str, marks: Mapping[str, float]) -> str:
    """Draw values with their intervals, one row per label.

    Args:
        labels: From top to bottom.
        series: Drawn on each line, a little apart.
        xlabel: What the values are; they run from 0 to 1.
        marks: Published values by label, drawn as bars across the line.
    """
    figure, axes = _new(8.6, 1.2 + 0.3 * len(labels))
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
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside lower center", ncols=3)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def scatter(points: Sequence[tuple[str, float, float, int]], *, groups: Sequence[str]) -> str:
    """Draw recall against false positives of each set.

    Args:
        points: Label, false-positive rate, recall, index of the group.
        groups: Names for the legend.
    """
    figure, axes = _new(8.6, 5.2)
    for index, group in enumerate(groups):
        own = [(x, y) for _, x, y, which in points if which == index]
        if own:
            axes.plot(*zip(*own, strict=True), "o", ms=6, alpha=0.85, color=COLOURS[index % len(COLOURS)], label=group)
    for label, x, y, _ in points:
        axes.annotate(label, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7, color=_INK)
    axes.plot([0, 1], [0, 1], "--", color=_MUTED, lw=1, label="chance")
    for start, end, colour in (
        (-0.01, MOST_TO_BLOCK, _GOOD),
        (MOST_TO_BLOCK, MOST_TO_BLOCK_WITH_APPEAL, _FAIR),
        (MOST_TO_BLOCK_WITH_APPEAL, 1.02, _POOR),
    ):
        axes.axvspan(start, end, color=colour, alpha=0.1, lw=0)
    most = max([0.25, *(x for _, x, _, _ in points)])
    axes.set_xlim(-0.01, min(1.02, most * 1.25))
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("false-positive rate: safe rows flagged")
    axes.set_ylabel("recall: unsafe rows flagged")
    axes.legend(loc="lower right")
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def reliability(calibrations: Mapping[str, Calibration]) -> str:
    """Draw reliability diagrams side by side; the area of a dot is its share of the rows."""
    figure, axes = _new(4.2 * len(calibrations), 3.6, columns=len(calibrations))
    for each, (name, value) in zip(axes if len(calibrations) > 1 else [axes], calibrations.items(), strict=True):
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


@matplotlib.rc_context(_STYLE)
def confusion(table: CategoryTable) -> str:
    """Draw a category table; the colour says whether the name is right, its strength the share of the row."""
    lines = [(name, row) for name, row in zip(table.names, table.counts, strict=False) if any(row)]
    shares = [[value / sum(row) for value in row] for _, row in lines]
    figure, axes = _new(8.6, 1.7 + 0.36 * len(lines))
    axes.grid(visible=False)
    for line, (name, row) in enumerate(lines):
        for column, value in enumerate(row):
            if value:
                colour = _cell_colour(table.names[column], name, is_last=column == len(row) - 1)
                share = shares[line][column]
                place = (column - 0.48, line - 0.46)
                axes.add_patch(Rectangle(place, 0.96, 0.92, color=colour, lw=0, alpha=0.12 + 0.48 * share))
                axes.text(column, line, str(value), ha="center", va="center", fontsize=8, color=_INK)
    axes.set_xlim(-0.5, len(table.names) - 0.5)
    axes.set_ylim(len(lines) - 0.5, -0.5)
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


@matplotlib.rc_context(_STYLE)
def stream_curves(curves: Mapping[str, Sequence[CurvePoint]]) -> str:
    """Draw recall against false stops over all thresholds, one curve per set."""
    figure, axes = _new(8.6, 4.4)
    for index, (name, points) in enumerate(curves.items()):
        xs = [0.0, *(each.false_stop_rate for each in points)]
        ys = [0.0, *(each.recall for each in points)]
        style = "-" if index < len(COLOURS) else "--"
        axes.plot(xs, ys, style, lw=1.4, color=COLOURS[index % len(COLOURS)], label=name)
    axes.plot([0, 1], [0, 1], ":", color=_MUTED, lw=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false-stop rate: harmless streams stopped")
    axes.set_ylabel("recall: unsafe streams stopped")
    axes.legend(loc="lower right", fontsize=8)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def leak_curves(curves: Mapping[str, Sequence[Leak]]) -> str:
    """Draw the harmful tokens that get out against the tokens held back, and the share of clean streams."""
    figure, (left, right) = _new(8.6, 3.4, columns=2)
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


@matplotlib.rc_context(_STYLE)
def onset_bars(onsets: Mapping[str, Onset]) -> str:
    """Draw where streams were stopped, a bar a set."""
    figure, axes = _new(8.6, 1.3 + 0.36 * len(onsets))
    starts = [0.0] * len(onsets)
    for name, colour in _ONSET_COLOURS.items():
        widths = [getattr(each, name) / each.streams for each in onsets.values()]
        axes.barh(list(onsets), widths, left=starts, color=colour, label=name.replace("_", " "), height=0.65)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.set_xlabel("share of streams with a marked harmful part")
    figure.legend(loc="outside lower center", ncols=7, fontsize=8)
    return _svg(figure)


@matplotlib.rc_context(_STYLE)
def paired_bars(labels: Sequence[str], bars: Mapping[str, Sequence[float | None]], *, ylabel: str) -> str:
    """Draw bars side by side for each label."""
    figure, axes = _new(8.6, 3.2)
    width = 0.8 / len(bars)
    for index, (name, values) in enumerate(bars.items()):
        xs = [place + (index - (len(bars) - 1) / 2) * width for place in range(len(labels))]
        colour = _MEANING.get(name, COLOURS[index % len(COLOURS)])
        axes.bar(xs, [value or 0.0 for value in values], width, color=colour, label=name)
    axes.axhline(0, color=_MUTED, lw=0.8)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(range(len(labels)), labels, rotation=40 if len(labels) > 12 else 20, ha="right")
    axes.set_ylabel(ylabel)
    figure.legend(loc="outside upper right", ncols=2)
    return _svg(figure)


def _new(width: float, height: float, *, columns: int = 1) -> Any:  # Any: matplotlib has no types
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _svg(figure: Any) -> str:  # Any: matplotlib has no types
    buffer = io.StringIO()
    # The salt keeps names within one page apart, and the same from run to run.
    salt = "".join(
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
