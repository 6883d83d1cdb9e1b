"""Sections of the report on one guard."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from streamward.evals import plots
from streamward.evals.figures import percent, percent_of, with_interval
from streamward.evals.fitness import fitness
from streamward.evals.published_figures import published_figures
from streamward.evals.rendering import Card, Page, Plot, Section, Table
from streamward.evals.report_details import (
    calibration_section,
    categories_section,
    languages_section,
    perturbations_section,
    streams_section,
)
from streamward.evals.report_model import ColumnReport, GuardReport, PointName, SetReport
from streamward.evals.report_slices import everyday_section, flips_section, language_figures_section
from streamward.schema import Side

_REFERENCE = ("Qwen3Guard-0.6B-Gen", "strict")
_MODES: tuple[PointName, ...] = ("strict", "loose")
_FEW_COLUMNS = 3  # below, a mean of columns is no headline
_MARKS = {"nearly": " *"}
_SCATTER_NOTE = (
    "Up and left is better; the bands are the limits of the first sentence: green to block, amber to block where a"
    " person can look again, red to mark for review. Sets of unsafe rows only have no place here: they cannot show"
    " false alarms."
)


def guard_page(report: GuardReport) -> Page:
    """Lay out a report."""
    makers: tuple[Callable[[GuardReport], Section], ...] = (
        everyday_section,
        flips_section,
        language_figures_section,
        _published,
        _whole_texts,
        streams_section,
        languages_section,
        categories_section,
        calibration_section,
        perturbations_section,
        _cost,
        _repeat,
    )
    sections = [section for make in makers if (section := make(report)).parts]
    rows = sum(each.rows for each in report.sets)
    subtitle = (
        f"{rows:,} judgements on {len({each.name for each in report.sets})} sets, suite {report.suite}, {report.date}"
    )
    first = fitness(report)
    headlines = report.headlines if first is None else (first, *report.headlines)
    return Page(f"How good {report.name} is", subtitle, list(_cards(report)), sections, headlines)


def reference_marks(columns: Sequence[ColumnReport]) -> dict[str, float]:
    """Return the F1 of the smallest published Qwen3Guard, as a share, for the columns it was published on."""
    for guard in published_figures().guard:
        if (guard.name, guard.mode) == _REFERENCE:
            known = ((column, guard.f1.get(column.published_name)) for column in columns)
            return {column.name: value / 100 for column, value in known if value is not None}
    return {}


def column_mean(columns: Sequence[ColumnReport], kind: str, point: PointName) -> float | None:
    """Return the mean F1 over the columns of one kind at one operating point."""
    values = [
        figure.value for column in columns if column.kind == kind and (figure := column.points[point].f1) is not None
    ]
    return statistics.fmean(values) if values else None


def _cards(report: GuardReport) -> Iterator[Card]:
    for side in Side:
        count = sum(column.kind == side for column in report.columns)
        mean = column_mean(report.columns, side.value, "strict")
        if mean is not None and count >= _FEW_COLUMNS:
            yield Card(f"F1, {side}s", percent(mean), f"mean of {count} columns with published counterparts, strict")
        elif values := list(balanced_f1(report.plain_sets, side)):
            note = f"mean of {len(values)} sets with safe and unsafe rows, strict"
            yield Card(f"F1, {side}s", percent(statistics.fmean(values)), note)
    for side in Side:
        sets = [each for each in report.plain_sets if each.side is side]
        safe = sum(
            each.points["strict"].false_positives + each.points["strict"].true_negatives for each in sets if each.points
        )
        if safe:
            wrong = sum(each.points["strict"].false_positives for each in sets if each.points)
            yield Card(f"False positives, {side}s", f"{percent(wrong / safe)} %", f"of {safe:,} safe rows, strict")
    streams = [each.stream for each in report.plain_sets if each.stream is not None and each.stream.onset is not None]
    if streams:
        total = sum(each.onset.streams for each in streams if each.onset)
        missed = sum(each.onset.missed for each in streams if each.onset)
        yield Card("Streams missed", f"{percent(missed / total)} %", f"of {total:,} with a marked harmful part")
    if (speed := report.cost.get("tokens_per_s")) is not None:
        yield Card("Speed", f"{speed:,.0f}", "tokens judged per second, in batches")
    if (latency := report.cost.get("alone_ms_p50")) is not None:
        yield Card("Latency", f"{latency:,.0f} ms", "median of single rows, one by one")
    errors = sum(each.errors for each in report.sets)
    yield Card("Rows without a judgement", f"{errors:,}", "left out of every figure")


def balanced_f1(sets: Sequence[SetReport], side: Side) -> Iterator[float]:
    """Yield the strict F1 of the sets of a side that can show false alarms too."""
    for each in sets:
        if each.side is side and each.points:
            strict = each.points["strict"]
            if strict.f1 is not None and strict.false_positive_rate is not None:
                yield strict.f1.value


def _whole_texts(report: GuardReport) -> Section:
    sets = [each for each in report.plain_sets if each.points]
    text = (
        "Positive means Unsafe. Strict counts the guard's Controversial as unsafe, loose as safe; both at the"
        " guard's own thresholds. Rows that people labelled Controversial enter no figure; the share of them that was"
        " flagged is in the second table. 95 % bootstrap intervals in brackets."
    )
    labels = [each.key for each in sets]
    series = [plots.Series(name, [each.points[name].f1 for each in sets], is_hollow=name == "loose") for name in _MODES]
    parts: list[Table | Plot] = []
    if sets:
        parts.append(Plot("F1 of each set", plots.dot_plot(labels, series, xlabel="F1 on Unsafe", marks={})))
        if points := list(_scatter_points(sets)):
            svg = plots.scatter(points, groups=[side.value for side in Side])
            parts.append(Plot("Recall against false positives, strict", svg, _SCATTER_NOTE))
        parts += [_points_table(sets), _ranking_table(sets)]
    found = (_refusal_table(report.plain_sets), _unlabelled_table(report.plain_sets))
    parts += [table for table in found if table is not None]
    return Section("Whole texts", text, parts)


def _scatter_points(sets: Sequence[SetReport]) -> Iterator[tuple[str, float, float, int]]:
    for each in sets:
        strict = each.points["strict"]
        if strict.recall is not None and strict.false_positive_rate is not None:
            yield each.name, strict.false_positive_rate.value, strict.recall.value, list(Side).index(each.side)


def _points_table(sets: Sequence[SetReport]) -> Table:
    rows = []
    for each in sets:
        strict, loose = each.points["strict"], each.points["loose"]
        rows.append(
            [
                each.key,
                _size(each),
                with_interval(strict.f1),
                percent_of(strict.precision),
                with_interval(strict.recall),
                with_interval(strict.false_positive_rate),
                percent_of(loose.f1),
                percent_of(loose.recall),
                percent_of(loose.false_positive_rate),
                percent_of(each.points["policy"].f1),
                percent_of(each.points["policy"].false_positive_rate),
            ]
        )
    header = [
        "set", "rows", "F1 strict", "precision", "recall", "false positives", "F1 loose", "recall loose",
        "false positives loose", "F1 policy", "false positives policy",
    ]  # fmt: skip
    note = "Policy is the policy of the run; it equals strict unless another was given. `n of m`: a sample."
    return Table("Operating points", header, rows, note)


def _size(each: SetReport) -> str:
    size = f"{each.rows:,}" if each.sampled_from is None else f"{each.rows:,} of {each.sampled_from:,}"
    return f"{size} ({each.errors} not judged)" if each.errors else size


def _ranking_table(sets: Sequence[SetReport]) -> Table:
    rows = [
        [
            each.key,
            "-" if each.ranking is None else with_interval(each.ranking.auroc),
            "-" if each.ranking is None else with_interval(each.ranking.auprc),
            "-" if each.calibration is None else f"{each.calibration.ece:.3f}",
            percent(each.points["strict"].controversial_flagged),
            "-" if each.oracle is None else f"{percent(each.oracle.mode_f1)} ({each.oracle.mode})",
            "-" if each.oracle is None else percent(each.oracle.threshold_f1),
        ]
        for each in sets
    ]
    header = ["set", "AUROC", "AUPRC", "ECE", "Controversial flagged", "oracle F1: mode", "oracle F1: threshold"]
    note = (
        "Oracle: the result of choosing the better mode, or the best threshold, on the labels themselves. It cannot be"
        " deployed; published averages use the better mode."
    )
    return Table("Ranking, calibration and the oracle", header, rows, note)


def _refusal_table(sets: Sequence[SetReport]) -> Table | None:
    rows = [
        [
            each.key,
            f"{each.refusal.silent_rows:,}",
            with_interval(each.refusal.point.f1),
            percent_of(each.refusal.point.precision),
            percent_of(each.refusal.point.recall),
        ]
        for each in sets
        if each.refusal is not None and each.refusal.point.f1 is not None
    ]
    note = "Rows unsaid: the guard does not report whether a response is a refusal."
    return Table("Refusals", ["set", "rows unsaid", "F1", "precision", "recall"], rows, note) if rows else None


def _unlabelled_table(sets: Sequence[SetReport]) -> Table | None:
    rows = []
    for each in sets:
        flagged, passed = (each.decisions.strict.count(letter) for letter in "10")
        if not each.points and flagged + passed:
            rows.append([each.key, _size(each), percent(flagged / (flagged + passed)), each.labels])
    note = "The rows have no label of harm, so the share does not measure quality."
    return (
        Table("Sets without a label of harm", ["set", "rows", "flagged, strict", "labels"], rows, note)
        if rows
        else None
    )


def _published(report: GuardReport) -> Section:
    parts: list[Table | Plot] = []
    for kind in ("prompt", "response"):
        columns = [each for each in report.columns if each.kind == kind]
        if columns:
            series = [
                plots.Series(name, [each.points[name].f1 for each in columns], is_hollow=name == "loose")
                for name in _MODES
            ]
            svg = plots.dot_plot(
                [each.name for each in columns], series, xlabel="F1 on Unsafe", marks=reference_marks(columns)
            )
            parts.append(Plot(f"{kind.capitalize()} columns", svg))
    parts += published_tables({report.name: report.columns})
    if report.excluded:
        rows = [[each.name, each.reason] for each in report.excluded]
        parts.append(Table("Columns left out, and the reason", ["column", "reason"], rows, is_folded=True))
    text = (
        f"F1 times 100 on the rows of the published columns. Published figures: {published_figures().source}; they"
        " were not measured in this run. A column marked * lacks some rows; its note states which."
    )
    return Section("Beside published figures", text, parts)


def published_tables(by_guard: Mapping[str, Sequence[ColumnReport]]) -> list[Table]:
    """Return a table for prompts, responses and refusals: guards judged here, then published rows.

    Args:
        by_guard: The same columns, in the same order, of each guard.
    """
    tables = []
    for kind, title in (("prompt", "Prompts"), ("response", "Responses"), ("refusal", "Refusals")):
        own = {name: [each for each in columns if each.kind == kind] for name, columns in by_guard.items()}
        columns = next(iter(own.values()))
        if not columns:
            continue
        header = ["guard", *(each.name + _MARKS.get(each.comparable, "") for each in columns)]
        rows = []
        for name, found in own.items():
            modes = _MODES if kind != "refusal" else _MODES[:1]
            rows += [_column_row(f"{name}, {mode}" if len(modes) > 1 else name, found, mode) for mode in modes]
        rows += _published_rows(columns)
        tables.append(Table(title, header, rows, _column_notes(columns)))
    return tables


def _published_rows(columns: Sequence[ColumnReport]) -> Iterator[list[str]]:
    for guard in published_figures().guard:
        values = [guard.f1.get(each.published_name) for each in columns]
        if any(value is not None for value in values):
            yield [f"{guard.label} (published)", *("-" if value is None else f"{value:.1f}" for value in values)]


def _column_row(name: str, columns: Sequence[ColumnReport], point: PointName) -> list[str]:
    cells = [percent_of(each.points[point].f1) for each in columns]
    return [name, *(f"{cell} !" if each.errors else cell for cell, each in zip(cells, columns, strict=True))]


def _column_notes(columns: Sequence[ColumnReport]) -> str:
    notes = [f"{each.name} ({each.rows:,} rows): {each.note}." for each in columns if each.note]
    notes += [f"! {each.name}: {each.errors} rows were not judged." for each in columns if each.errors]
    return " ".join(notes)


def _cost(report: GuardReport) -> Section:
    names = {
        "num_rows": "judgements",
        "num_errors": "without a judgement",
        "num_tokens": "tokens judged",
        "wall_s": "seconds the guard was busy",
        "rows_per_s": "rows per second, in batches",
        "tokens_per_s": "tokens per second, in batches",
        "alone_rows": "rows judged one by one",
        "alone_ms_p50": "milliseconds of one row, median",
        "alone_ms_p95": "milliseconds of one row, 95th percentile",
    }
    rows = [
        [title, f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"]
        for key, title in names.items()
        if (value := report.cost.get(key)) is not None
    ]
    text = (
        "The figures are those of this run on this machine; cached rows count with the time of their first judgement."
    )
    return Section("Cost", text, [Table("Time", ["what", "value"], rows)])


def _repeat(report: GuardReport) -> Section:
    facts = {
        "command": report.command,
        "date": report.date,
        "guard": report.name,
        "kind": str(report.guard.get("kind", "")),
        "identity": str(report.guard.get("identity", "")),
        "policy": str(report.guard.get("policy", {}).get("name", "")),
        "hardware": ", ".join(f"{key} {value}" for key, value in report.hardware.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in report.versions.items()),
    }
    rows = [
        [each.key, _size(each), each.source, each.revision or "-", each.licence, each.labels, each.sha256[:16]]
        for each in report.plain_sets
    ]
    parts = [
        Table("Run", ["what", "value"], [[key, value] for key, value in facts.items()]),
        Table(
            "Sets", ["set", "rows", "source", "revision", "licence", "labels", "rows' SHA-256"], rows, is_folded=True
        ),
    ]
    return Section("To repeat it", "Everything is in report.json, without any text of the sets.", parts)
