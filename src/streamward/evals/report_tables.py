"""Tables for a README or a model card, out of a report: with its command and date, so that they can be made again."""

from typing import NamedTuple

from streamward.evals.figures import percent, percent_of
from streamward.evals.rendering import Table, markdown_table
from streamward.evals.report_model import GuardReport, Point


def quality_table(report: GuardReport, *, floor: GuardReport | None = None) -> str:
    """Return Markdown: the published columns first, then the sets that belong to none.

    Args:
        report: Of the guard.
        floor: Of a simple guard on the same rows, for one more column.
    """
    floors = {} if floor is None else _lines(floor)
    header = ["set", "rows", "F1", "recall", "false positives", "F1 loose", "AUROC"]
    header += [] if floor is None else [f"F1, {floor.name}"]
    rows = []
    for name, line in _lines(report).items():
        strict = line.strict
        row = [name, f"{line.rows:,}", percent_of(strict.f1), percent_of(strict.recall)]
        row += [percent_of(strict.false_positive_rate), percent_of(line.loose.f1), percent(line.auroc)]
        if floor is not None:
            row.append(percent_of(floors[name].strict.f1) if name in floors else "-")
        rows.append(row)
    sources = [report] if floor is None else [report, floor]
    made = " ".join(f"{each.name}: `{each.command}`, {each.date[:10]}." for each in sources)
    note = f"Percent, on the unsafe class, at `strict` but for one column. {made}"
    return f"{markdown_table(Table('', header, rows))}\n\n{note}\n"


class _Line(NamedTuple):
    rows: int
    strict: Point
    loose: Point
    auroc: float | None


def _lines(report: GuardReport) -> dict[str, _Line]:
    sets = {each.key: each for each in report.plain_sets if each.points}
    lines = {}
    for column in report.columns:
        if column.kind != "refusal":
            whole = None if column.whole_set is None else sets.pop(column.whole_set, None)
            auroc = None if whole is None or whole.ranking is None else whole.ranking.auroc.value
            lines[column.name] = _Line(column.rows, column.points["strict"], column.points["loose"], auroc)
    for key, each in sets.items():
        auroc = None if each.ranking is None else each.ranking.auroc.value
        lines[key] = _Line(each.rows, each.points["strict"], each.points["loose"], auroc)
    return lines
