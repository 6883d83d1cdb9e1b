"""The sections of a report on parts of the rows: everyday text, surface cues, languages side by side."""

from collections.abc import Iterator, Sequence

from streamward.evals.everyday import RAISED
from streamward.evals.figures import percent, with_interval
from streamward.evals.language_figures import MIN_ROWS
from streamward.evals.rendering import Section, Table
from streamward.evals.report_model import EverydayReport, FlaggedSlice, FlipReport, FlipSlice, GuardReport


def everyday_section(report: GuardReport) -> Section:
    """Say how much harmless text is flagged, by language, group and identity."""
    text = (
        "Rows that are harmless beyond dispute, at strict: every flag is an error. A response counts as cut where it is"
        f" stopped at any token. Marked +: over {RAISED:g} times the share of all rows of the side."
    )
    tables = [table for each in report.everyday for table in _everyday_tables(each)]
    return Section("Everyday text", text, tables)


def _everyday_tables(each: EverydayReport) -> Iterator[Table]:
    done = "flagged" if each.side == "prompt" else "cut"
    header = ["", "rows", done, f"share {done}", "raised"]
    parts = (("language", each.languages), ("group", each.groups), ("identity", each.identities))
    for kind, slices in parts:
        if slices:
            rows = [_flagged_row(one) for one in (each.whole, *slices)]
            yield Table(f"Harmless {each.side}s by {kind}", [kind, *header[1:]], rows, is_folded=kind == "identity")


def _flagged_row(each: FlaggedSlice) -> list[str]:
    return [each.name, f"{each.rows:,}", f"{each.flagged:,}", with_interval(each.share), "+" if each.is_raised else ""]


def flips_section(report: GuardReport) -> Section:
    """Say which surface cues change decisions."""
    text = (
        "A contrast set is a group of rows that differ in one surface cue only and have the same label; it flips where"
        " its rows do not all get the same decision, at strict. Intervals are over contrast sets; pairs of rows are not"
        " independent and have none. A contrast set that is wrong throughout does not flip."
    )
    flips = report.flips
    return Section("Surface cues", text, [] if flips is None else list(_flip_tables(flips)))


def _flip_tables(report: FlipReport) -> Iterator[Table]:
    parts: tuple[tuple[str, Sequence[FlipSlice]], ...] = (
        ("cue", report.cues),
        ("side", report.sides),
        ("label", report.labels),
        ("language", report.languages),
    )
    for kind, slices in parts:
        header = [kind, "contrast sets", "flipped", "flip rate", "pairs", "pairs that differ"]
        yield Table(f"Flips by {kind}", header, [_flip_row(each) for each in (report.whole, *slices)])
    rows = [
        [
            f"{each.cue}: {each.variant}",
            f"{each.safe_rows:,}",
            percent(each.flagged / each.safe_rows if each.safe_rows else None),
            f"{each.unsafe_rows:,}",
            percent(each.missed / each.unsafe_rows if each.unsafe_rows else None),
        ]
        for each in report.variants
    ]
    header = ["variant", "safe rows", "flagged", "unsafe rows", "missed"]
    yield Table("Errors by variant", header, rows, is_folded=True)


def _flip_row(each: FlipSlice) -> list[str]:
    counts = [f"{each.contrast_sets:,}", f"{each.flipped:,}"]
    return [each.name, *counts, with_interval(each.flip_rate), f"{each.pairs:,}", percent(each.pair_rate)]


def language_figures_section(report: GuardReport) -> Section:
    """Put languages side by side."""
    worst = {(each.side, each.language, each.figure) for each in report.worst_languages}
    tables = []
    for side in dict.fromkeys(each.side for each in report.language_figures):
        rows = [
            [
                each.language,
                f"{each.unsafe_rows:,}",
                f"{each.safe_rows:,}",
                with_interval(each.recall),
                with_interval(each.false_positive_rate),
                with_interval(each.auroc),
                ", ".join(
                    name.replace("_", " ")
                    for at, language, name in sorted(worst)
                    if (at, language) == (side, each.language)
                ),
            ]
            for each in report.language_figures
            if each.side is side
        ]
        header = ["language", "unsafe rows", "safe rows", "recall", "false positives", "AUROC", "worst by"]
        tables.append(Table(f"{side.capitalize()}s", header, rows))
    text = (
        "All sets together, at strict. Languages may have different sets behind them, which differ in difficulty. A"
        f" language with fewer than {MIN_ROWS} rows behind a figure is not named the worst by it."
    )
    return Section("Language by language", text, tables)
