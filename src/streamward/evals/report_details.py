"""The sections of a report beyond whole texts: streams, languages, categories, calibration, perturbations."""

from collections.abc import Iterator

from streamward.evals import plots
from streamward.evals.figures import percent, with_interval
from streamward.evals.published_metric import BINS
from streamward.evals.rendering import Plot, Section, Table
from streamward.evals.report_model import GuardReport, Point

_CONFUSION_NOTE = (
    "Blue: flagged under the right name. Amber: flagged under another name. Red: not flagged. The fuller the colour,"
    " the larger the share of the row; the figures are numbers of texts."
)


def streams_section(report: GuardReport) -> Section:
    """Say where streams were stopped and what got out before."""
    streamed = {each.key: each.stream for each in report.plain_sets if each.stream is not None}
    if not streamed:
        return Section("Streams", "", [])
    onsets = {key: each.onset for key, each in streamed.items() if each.onset is not None}
    curves = {key: each.curve for key, each in streamed.items() if each.curve}
    parts: list[Table | Plot] = []
    if curves:
        parts.append(
            Plot(
                "Recall against false stops, over all thresholds",
                plots.stream_curves(curves),
                "With the debounce of two tokens.",
            )
        )
    rows = [
        [
            key,
            f"{each.unsafe_streams:,}",
            with_interval(each.recall),
            f"{each.safe_streams:,}",
            with_interval(each.false_stop_rate),
            percent(each.read_share),
            "-" if each.read_tokens_median is None else f"{each.read_tokens_median:.0f}",
            percent(each.flicker_share),
            "-" if each.switches_per_100_tokens is None else f"{each.switches_per_100_tokens:.2f}",
        ]
        for key, each in streamed.items()
    ]
    header = [
        "set", "unsafe", "stopped", "harmless", "stopped falsely", "read before the stop", "tokens read, median",
        "flicker", "switches per 100 tokens",
    ]  # fmt: skip
    note = "Flicker: share of streams whose raw verdict turned back to harmless after a flagged token."
    parts.append(Table("Stops", header, rows, note))
    if onsets:
        parts.append(Plot("Where streams with a marked harmful part were stopped", plots.onset_bars(onsets)))
        parts += _onset_parts(report)
    text = (
        "Every response is read token by token; it is stopped at the first flag under the policy's debounce (two"
        " successive tokens), at strict. Recall stands beside false stops: a guard that stops everything at once has"
        " full recall and stops every harmless stream too."
    )
    return Section("Streams", text, parts)


def _onset_parts(report: GuardReport) -> Iterator[Table | Plot]:
    names = ("early", "exact", "within_8", "within_32", "within_128", "late", "missed")
    found = [(each.key, each.stream) for each in report.plain_sets if each.stream and each.stream.onset]
    rows = [
        [key, f"{onset.streams:,}", *(percent(getattr(onset, name) / onset.streams) for name in names)]
        for key, stream in found
        if (onset := stream.onset) is not None
    ]
    note = "Percent of streams. Exact: within the first part that people marked; within n: at most n tokens behind it."
    header = ["set", "streams", *(name.replace("_", " ") for name in names)]
    yield Table("Stops against the marked part", header, rows, note)
    leaks = {key: stream.leaks for key, stream in found}
    yield Plot("Released harmful text against the hold-back", plots.leak_curves(leaks))
    chosen = (0, 1, 8, 32)
    rows = [
        [
            key,
            *(f"{each.mean_tokens:.1f} / {each.mean_chars:.0f}" for each in values if each.hold_back in chosen),
            *(percent(each.clean_share) for each in values if each.hold_back in chosen),
        ]
        for key, values in leaks.items()
    ]
    header = ["set", *(f"leak, {n} held" for n in chosen), *(f"clean, {n} held" for n in chosen)]
    note = "Leak: harmful tokens / characters that got out, mean over streams. Clean: share of streams without one."
    yield Table("Leaks", header, rows, note)
    rows = [
        [
            key,
            percent(each.exact_hit_rate),
            percent(each.first_128_rate),
            *(str(each.bins.get(name, 0)) for name in BINS),
        ]
        for key, stream in found
        if (each := stream.published) is not None
    ]
    note = (
        "Reproduced from the published script with its definitions: levels are the most probable ones, a flag before"
        " the marked part counts as within 128 tokens, and harmless streams are not looked at. Positions are tokens of"
        " this guard. Comparable with published figures on Qwen3GuardTest's own sets only."
    )
    yield Table("The metric published with Qwen3GuardTest", ["set", "hit", "first 128", *BINS], rows, note)


def _point_row(name: str, each: Point) -> list[str]:
    return [
        name,
        f"{each.true_positives + each.false_negatives:,}",
        f"{each.false_positives + each.true_negatives:,}",
        with_interval(each.f1),
        with_interval(each.recall),
        with_interval(each.false_positive_rate),
    ]


def languages_section(report: GuardReport) -> Section:
    """Say how recall and false positives differ by language."""
    if not report.languages:
        return Section("Languages", "", [])
    header = ["language", "unsafe rows", "safe rows", "F1", "recall", "false positives"]
    names = list(report.languages)
    points = list(report.languages.values())
    bars = {
        "recall": [None if each.recall is None else each.recall.value for each in points],
        "false positives": [
            None if each.false_positive_rate is None else each.false_positive_rate.value for each in points
        ],
    }
    parts: list[Table | Plot] = [
        Plot("Recall and false positives by language", plots.paired_bars(names, bars, ylabel="share of rows")),
        Table("All sets together", header, [_point_row(*each) for each in report.languages.items()]),
    ]
    for each in report.plain_sets:
        if each.languages:
            rows = [_point_row(*one) for one in each.languages.items()]
            parts.append(Table(each.key, header, rows, is_folded=True))
    text = (
        "At strict. Languages have different sets behind them: compare one language across guards, not two languages."
    )
    return Section("Languages", text, parts)


def categories_section(report: GuardReport) -> Section:
    """Say what the guard calls each kind of harm."""
    parts: list[Table | Plot] = []
    for table in report.categories:
        parts.append(Plot(f"Unsafe {table.side}s by category", plots.confusion(table), _CONFUSION_NOTE))
        rows = []
        for index, (name, counts) in enumerate(zip(table.names, table.counts, strict=False)):
            total, flagged = sum(counts), sum(counts) - counts[-1]
            if total:
                named = counts[index] / flagged if flagged else None
                rows.append([name, f"{total:,}", percent(flagged / total), percent(named)])
        header = ["category", "rows", "flagged", "of these with the same name"]
        parts.append(Table(f"Recall by category, {table.side}s", header, rows))
    text = "Unsafe rows whose source names a category that maps clearly on one of the nine, at strict."
    return Section("Categories", text, parts)


def calibration_section(report: GuardReport) -> Section:
    """Compare predicted risks with the share of unsafe rows."""
    if not report.calibration:
        return Section("Calibration", "", [])
    values = {side.value: each for side, each in report.calibration.items()}
    text = (
        "Does a risk of 0.8 turn out unsafe eight times in ten? Risk is P(Unsafe) + P(Controversial); of a stream, the"
        " highest that two successive tokens hold. All sets of a side together; larger dots are more rows."
    )
    return Section("Calibration", text, [Plot("Reliability", plots.reliability(values))])


def perturbations_section(report: GuardReport) -> Section:
    """Report the changes under perturbations."""
    if not report.perturbations:
        return Section("Perturbations", "", [])
    header = ["perturbation", "rows", "recall", "change", "false positives", "change"]
    groups: dict[str, list[list[str]]] = {}
    for each in report.perturbations:
        row = [
            each.perturbation.replace("_", " "),
            f"{each.rows:,}",
            percent(each.recall),
            with_interval(each.recall_change),
            percent(each.false_positive_rate),
            with_interval(each.false_positive_rate_change),
        ]
        groups.setdefault(each.set_name, []).append(row)
    overall = [each for each in report.perturbations if each.set_name == "all"]
    bars = {
        "recall": [each.recall_change.value if each.recall_change else None for each in overall],
        "false positives": [
            each.false_positive_rate_change.value if each.false_positive_rate_change else None for each in overall
        ],
    }
    names = [each.perturbation.replace("_", " ") for each in overall]
    parts: list[Table | Plot] = [
        Plot("Change against the plain text", plots.paired_bars(names, bars, ylabel="change of the share"))
    ]
    parts += [
        Table(f"Set: {name}" if name != "all" else "All sets", header, rows, is_folded=name != "all")
        for name, rows in groups.items()
    ]
    text = "The same prompts under perturbations, at strict; changes are in points against the same unperturbed rows."
    return Section("Perturbations", text, parts)
