"""Two or more reports side by side, and whether guards differ on the same rows."""

import json
import statistics
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from streamward.errors import InputError
from streamward.evals import plots
from streamward.evals.figures import percent, percent_of, with_interval
from streamward.evals.intervals import Paired, paired
from streamward.evals.rendering import Card, Page, Plot, Section, Table, write_page
from streamward.evals.report_model import GuardReport, SetReport, read_report
from streamward.evals.report_pages import balanced_f1, published_tables
from streamward.schema import Side

_SIGNIFICANT = 0.05


class Difference(NamedTuple):
    """Two guards on one set, at strict."""

    set_name: str
    first: str
    second: str
    result: Paired


def write_comparison(paths: Sequence[Path], out: Path) -> None:
    """Compare reports and write `comparison.json`, `report.md` and `report.html`.

    Raises:
        InputError: A report cannot be read, or the reports have no set in common.
    """
    reports = _named([read_report(path) for path in paths])
    shared = _shared_sets(reports)
    if not shared:
        raise InputError("these reports share no set with the same rows; judge the same sets to compare guards")
    differences = list(_differences(reports, shared))
    out.mkdir(parents=True, exist_ok=True)
    values = _values(paths, reports, differences)
    (out / "comparison.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    write_page(_page(reports, shared, differences), out)


def _named(reports: Sequence[GuardReport]) -> dict[str, GuardReport]:
    """Give each report a name of its own: the guard's, with a number where it repeats."""
    found: dict[str, GuardReport] = {}
    for report in reports:
        number = sum(each.name == report.name for each in found.values()) + 1
        found[report.name if number == 1 else f"{report.name} ({number})"] = report
    return found


def _shared_sets(reports: dict[str, GuardReport]) -> list[str]:
    """Return the sets that all reports judged on the very same rows."""
    hashes = [{each.key: each.sha256 for each in report.plain_sets if each.points} for report in reports.values()]
    first, *others = hashes
    return [key for key, value in first.items() if all(other.get(key) == value for other in others)]


def _set_of(report: GuardReport, key: str) -> SetReport:
    return next(each for each in report.sets if each.key == key)


def _differences(reports: dict[str, GuardReport], shared: Sequence[str]) -> Iterator[Difference]:
    for key in shared:
        for first, second in combinations(reports, 2):
            one, other = (_set_of(reports[name], key).decisions for name in (first, second))
            rows = [
                (a == "1", b == "1", truth == "1")
                for a, b, truth in zip(one.strict, other.strict, one.truth, strict=True)
                if truth in "01" and a in "01" and b in "01"
            ]
            columns = [[row[part] for row in rows] for part in range(3)]
            yield Difference(key, first, second, paired(*columns))


def _values(
    paths: Sequence[Path], reports: dict[str, GuardReport], differences: Sequence[Difference]
) -> dict[str, Any]:  # Any: JSON values
    return {
        "reports": [
            {"path": str(path), "name": name, "identity": report.guard.get("identity"), "date": report.date}
            for path, (name, report) in zip(paths, reports.items(), strict=True)
        ],
        "differences": [
            {
                "set": each.set_name,
                "first": each.first,
                "second": each.second,
                "rows": each.result.rows,
                "f1_change": each.result.f1_change and each.result.f1_change.model_dump(),
                "recall_change": each.result.recall_change and each.result.recall_change.model_dump(),
                "false_positive_rate_change": each.result.false_positive_rate_change
                and each.result.false_positive_rate_change.model_dump(),
                "p_value": each.result.p_value,
            }
            for each in differences
        ],
    }


def _page(reports: dict[str, GuardReport], shared: Sequence[str], differences: Sequence[Difference]) -> Page:
    sections = [
        _whole_texts(reports, shared),
        _significance(differences),
        _columns(reports),
        _streams(reports, shared),
        _costs(reports),
    ]
    title = " against ".join(reports) if len(reports) == 2 else f"{len(reports)} guards"
    subtitle = f"{len(shared)} sets judged on the same rows by all: {', '.join(reports)}"
    cards = list(_cards(reports, shared))
    return Page(title, subtitle, cards, [each for each in sections if each.parts])


def _cards(reports: dict[str, GuardReport], shared: Sequence[str]) -> Iterator[Card]:
    for name, report in reports.items():
        sets = [_set_of(report, key) for key in shared]
        values = [value for side in Side for value in balanced_f1(sets, side)]
        if values:
            note = f"mean F1 of {len(values)} shared sets with safe and unsafe rows, strict"
            yield Card(name, percent(statistics.fmean(values)), note)


def _whole_texts(reports: dict[str, GuardReport], shared: Sequence[str]) -> Section:
    sets = {name: [_set_of(report, key) for key in shared] for name, report in reports.items()}
    series = [plots.Series(name, [each.points["strict"].f1 for each in own]) for name, own in sets.items()]
    points = [
        ("", strict.false_positive_rate.value, strict.recall.value, index)
        for index, own in enumerate(sets.values())
        for each in own
        if (strict := each.points["strict"]).recall is not None and strict.false_positive_rate is not None
    ]
    rows = [
        [
            key,
            *(with_interval(own[line].points["strict"].f1) for own in sets.values()),
            *(percent_of(own[line].points["strict"].false_positive_rate) for own in sets.values()),
        ]
        for line, key in enumerate(shared)
    ]
    header = ["set", *(f"F1, {name}" for name in sets), *(f"false positives, {name}" for name in sets)]
    parts: list[Table | Plot] = [
        Plot("F1 of each set, strict", plots.dot_plot(shared, series, xlabel="F1 on Unsafe", marks={})),
        Plot("Recall against false positives, strict", plots.scatter(points, groups=list(sets)), "One dot per set."),
        Table("Sets", header, rows),
    ]
    return Section("Whole texts", "Only sets of which all guards judged the very same rows, by hash.", parts)


def _significance(differences: Sequence[Difference]) -> Section:
    rows = [
        [
            each.set_name,
            f"{each.second} - {each.first}",
            f"{each.result.rows:,}",
            with_interval(each.result.f1_change),
            with_interval(each.result.recall_change),
            with_interval(each.result.false_positive_rate_change),
            f"{each.result.p_value:.4f}" if each.result.p_value >= 0.0001 else "<0.0001",
            "yes" if each.result.p_value * len(differences) < _SIGNIFICANT else "no",
        ]
        for each in differences
    ]
    header = ["set", "difference", "rows", "F1", "recall", "difference of false positives", "p", "differs"]
    text = (
        "Differences in points on the same rows, strict, with paired bootstrap intervals. p is McNemar's exact test on"
        f" right against wrong; `differs` holds it to 0.05 over {len(differences)} comparisons (Bonferroni)."
    )
    return Section("Do they differ?", text, [Table("Paired comparison", header, rows)])


_COLUMNS_TEXT = (
    "F1 times 100 of columns that all guards judged on the same rows; published rows were not measured here."
)


def _columns(reports: dict[str, GuardReport]) -> Section:
    by_guard = {name: {each.name: each for each in report.columns} for name, report in reports.items()}
    hashes = [{name: each.sha256 for name, each in own.items()} for own in by_guard.values()]
    common = [name for name, value in hashes[0].items() if all(other.get(name) == value for other in hashes)]
    apart = sorted({name for own in by_guard.values() for name in own} - set(common))
    columns = {guard: [own[name] for name in common] for guard, own in by_guard.items()}
    text = f"{_COLUMNS_TEXT} Left out, because not all judged the same rows: {', '.join(apart) or 'none'}."
    return Section("Beside published figures", text, published_tables(columns) if common else [])


def _streams(reports: dict[str, GuardReport], shared: Sequence[str]) -> Section:
    rows = []
    for key in shared:
        for name, report in reports.items():
            stream = _set_of(report, key).stream
            if stream is not None:
                onset = stream.onset
                exact = None if onset is None else onset.exact / onset.streams
                leak = next((each.mean_tokens for each in stream.leaks if each.hold_back == 0), None)
                rows.append(
                    [
                        key,
                        name,
                        with_interval(stream.recall),
                        with_interval(stream.false_stop_rate),
                        percent(exact),
                        "-" if leak is None else f"{leak:.1f}",
                        percent(stream.flicker_share),
                    ]
                )
    header = ["set", "guard", "stopped", "stopped falsely", "within the part", "harmful tokens out", "flicker"]
    return Section("Streams", "Guards that judge tokens only.", [Table("Streams", header, rows)] if rows else [])


def _costs(reports: dict[str, GuardReport]) -> Section:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:,.1f}"

    keys = ("rows_per_s", "tokens_per_s", "alone_ms_p50", "alone_ms_p95")
    rows = [
        [name, *(cell(report.cost.get(key)) for key in keys), str(report.hardware.get("cpu") or ""), report.date]
        for name, report in reports.items()
    ]
    header = ["guard", "rows/s", "tokens/s", "alone ms, median", "alone ms, 95th", "processor", "date"]
    return Section("Cost", "Compare times of one machine and one run only.", [Table("Time", header, rows)])
