"""From a run to its report: figures out of predictions, and the three files."""

import json
from collections.abc import Sequence
from pathlib import Path

from streamward.errors import InputError
from streamward.evals.cohorts import Cohort, cohort
from streamward.evals.counterfactuals import flip_report
from streamward.evals.everyday import everyday_reports
from streamward.evals.headlines import headlines
from streamward.evals.language_figures import language_figures, worst_languages
from streamward.evals.predictions import GuardRun, SetResult
from streamward.evals.registry import columns, entry_of
from streamward.evals.rendering import write_page
from streamward.evals.report_model import (
    REPORT_FILE,
    Calibration,
    CategoryTable,
    ColumnReport,
    ExcludedColumn,
    GuardReport,
    SetReport,
    set_key,
)
from streamward.evals.report_pages import guard_page
from streamward.evals.stream_metrics import stream_report
from streamward.evals.suites import Suite
from streamward.evals.whole_text import (
    Pair,
    by_language,
    category_table,
    decisions,
    judged,
    oracle,
    pairs_of,
    perturbation_deltas,
    refusal,
    refusal_pairs,
    set_calibration,
    set_ranking,
)
from streamward.schema import Side


def write_report(run: GuardRun, folder: Path) -> GuardReport:
    """Write `report.json`, `report.md` and `report.html`, and return the report."""
    report = guard_report(run)
    folder.mkdir(parents=True, exist_ok=True)
    values = report.model_dump(mode="json")
    (folder / REPORT_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    write_page(guard_page(report), folder)
    return report


def guard_report(run: GuardRun) -> GuardReport:
    """Compute all figures of a run."""
    plain = [each for each in run.sets if each.perturbation is None]
    found, excluded = _columns(plain)
    by_side = {side: [pair for each in _whole(plain) if each.side is side for pair in pairs_of(each)] for side in Side}
    everyday = everyday_reports(by_side) if run.suite == Suite.EVERYDAY else ()
    flips = flip_report(plain) if run.suite == Suite.CUES else None
    languages = language_figures(by_side) if run.suite == Suite.LANGUAGES else ()
    worst = worst_languages(languages)
    return GuardReport(
        guard=dict(run.guard),
        suite=run.suite,
        command=run.command,
        date=run.date,
        versions=dict(run.versions),
        hardware=dict(run.hardware),
        cost=dict(run.cost),
        sets=tuple(map(_set_report, run.sets)),
        columns=found,
        excluded=excluded,
        categories=_categories(plain),
        calibration=_calibration(plain),
        languages=by_language(pair for each in _whole(plain) for pair in pairs_of(each)),
        perturbations=tuple(perturbation_deltas(run.sets)),
        headlines=headlines(everyday, flips, worst),
        everyday=everyday,
        flips=flips,
        language_figures=languages,
        worst_languages=worst,
    )


def _set_report(result: SetResult) -> SetReport:
    pairs, entry = pairs_of(result), entry_of(result.set_name)
    rows = judged(pairs)
    return SetReport(
        name=result.set_name,
        side=result.side,
        perturbation=result.perturbation,
        rows=len(pairs),
        errors=sum(each.error is not None for each in result.predictions),
        sampled_from=result.sampled_from,
        sha256=result.set_sha256,
        source=entry.source,
        revision=entry.revision,
        licence=entry.licence,
        labels=entry.labels,
        points=rows.points(),
        oracle=oracle(rows),
        ranking=set_ranking(rows),
        calibration=set_calibration(rows.clear),
        refusal=refusal(pairs),
        languages=by_language(pairs),
        stream=stream_report(pairs),
        wall_s=result.wall_s,
        decisions=decisions(pairs),
    )


def _columns(results: Sequence[SetResult]) -> tuple[tuple[ColumnReport, ...], tuple[ExcludedColumn, ...]]:
    judged_sets = {each.set_name for each in results}
    found, excluded = [], []
    for column in columns():
        if not judged_sets & {member.set for member in column.members}:
            continue
        try:
            rows = cohort(column, results)
        except InputError as error:
            excluded.append(ExcludedColumn(name=column.name, reason=str(error).removeprefix(f"{column.name}: ")))
            continue
        pairs = _column_pairs(rows, is_refusal=column.kind == "refusal")
        points = judged(pairs).points()
        if not points:
            excluded.append(ExcludedColumn(name=column.name, reason="the guard says nothing about it"))
            continue
        found.append(
            ColumnReport(
                name=column.name,
                kind=column.kind,
                comparable=column.comparable,
                note=column.note,
                rows=len(pairs),
                sha256=rows.sha256(),
                whole_set=_whole_set(rows, results),
                errors=sum(each.error is not None for _, each in pairs),
                points=points,
            )
        )
    return tuple(found), tuple(excluded)


def _whole_set(rows: Cohort, results: Sequence[SetResult]) -> str | None:
    ids = [row.id for row in rows.rows]
    for each in results:
        if [row.id for row in each.rows if row.label is not None] == ids and each.rows[0].side is rows.rows[0].side:
            return set_key(each.set_name, each.side)
    return None


def _column_pairs(rows: Cohort, *, is_refusal: bool) -> list[Pair]:
    pairs = list(zip(rows.rows, rows.predictions, strict=True))
    return refusal_pairs(pairs) if is_refusal else pairs


def _categories(results: Sequence[SetResult]) -> tuple[CategoryTable, ...]:
    tables = (
        category_table((pair for each in _whole(results) if each.side is side for pair in pairs_of(each)), side)
        for side in Side
    )
    return tuple(table for table in tables if table is not None)


def _calibration(results: Sequence[SetResult]) -> dict[Side, Calibration]:
    found = {}
    for side in Side:
        pairs = [pair for each in _whole(results) if each.side is side for pair in pairs_of(each)]
        if (value := set_calibration(judged(pairs).clear)) is not None:
            found[side] = value
    return found


def _whole(results: Sequence[SetResult]) -> list[SetResult]:
    """Leave out prompts judged as if they were responses: their texts count once."""
    prompts = {each.set_name for each in results if each.side is Side.PROMPT}
    return [
        each
        for each in results
        if each.side is Side.PROMPT or each.set_name not in prompts or not entry_of(each.set_name).streamed_prompts
    ]
