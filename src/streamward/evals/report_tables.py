"""Tables for a README or a model card, out of a report: with its command and date, so that they can be made again."""

from pathlib import Path
from typing import NamedTuple

from streamward.errors import InputError
from streamward.evals.figures import percent, percent_of
from streamward.evals.rendering import Table, markdown_table
from streamward.evals.report_model import GuardReport, Point
from streamward.reasons import reason_of

BEGIN, END = "<!-- quality table -->", "<!-- end of quality table -->"


def quality_table(report: GuardReport, *, baseline: GuardReport | None = None) -> str:
    """Return Markdown: the published columns first, then the sets that belong to none.

    Args:
        report: Report of the guard.
        baseline: Report of a baseline, for one more column; the column is empty where the baseline judged other rows.
    """
    baseline_rows = {} if baseline is None else _lines(baseline)
    header = ["set", "rows", "F1", "recall", "false positives", "F1 loose", "AUROC"]
    header += [] if baseline is None else [f"F1, {baseline.name}"]
    rows = []
    for name, line in _lines(report).items():
        strict = line.strict
        row = [name, line.size, percent_of(strict.f1), percent_of(strict.recall)]
        row += [percent_of(strict.false_positive_rate), percent_of(line.loose.f1), percent(line.auroc)]
        if baseline is not None:
            lowest = baseline_rows.get(name)
            row.append(percent_of(lowest.strict.f1) if lowest and lowest.sha256 == line.sha256 else "-")
        rows.append(row)
    sources = [report] if baseline is None else [report, baseline]
    made = " ".join(f"{each.name}: `{each.command}`, {each.date[:10]}." for each in sources)
    note = f"Percentages for the unsafe class under the `strict` policy; the column 'F1 loose' uses `loose`. {made}"
    return f"{markdown_table(Table('', header, rows))}\n\n{note}\n"


def put_table(table: str, path: Path) -> None:
    """Replace what stands between the two markers in a Markdown file.

    Raises:
        InputError: The file cannot be read, or does not hold each marker once, in order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {reason_of(error)}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise InputError(f"{str(path)!r} must contain the lines {BEGIN} and {END} once each, around the table")
    path.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}", encoding="utf-8")


class _Line(NamedTuple):
    size: str
    sha256: str
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
            strict, loose = column.points["strict"], column.points["loose"]
            lines[column.name] = _Line(f"{column.rows:,}", column.sha256, strict, loose, auroc)
    for key, each in sets.items():
        auroc = None if each.ranking is None else each.ranking.auroc.value
        size = f"{each.rows:,}" if each.sampled_from is None else f"{each.rows:,} of {each.sampled_from:,}"
        lines[key] = _Line(size, each.sha256, each.points["strict"], each.points["loose"], auroc)
    return lines
