"""Schema of evaluation reports: plain values, written as JSON and read back to compare or print them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field

from streamward.errors import ConfigError, InputError
from streamward.evals.registry import Comparable, Kind
from streamward.reasons import reason_of
from streamward.schema import Side
from streamward.settings import Settings

PointName = Literal["strict", "loose", "policy"]
POINTS: tuple[PointName, ...] = ("strict", "loose", "policy")
REPORT_FILE = "report.json"
FORMAT = 1


class Estimate(Settings):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Point(Settings):
    """Metrics at one operating point; a figure is None where the rows do not determine it."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    f1: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    false_positive_rate: Estimate | None
    controversial_flagged: float | None = None
    """Share flagged of the rows that people call Controversial; they count in no other figure."""


class Oracle(Settings):
    """The best F1 that a choice made with the answers at hand gets: no operating point, never a result."""

    mode_f1: float
    """The better of strict and loose, as averages of the Qwen3Guard report take it."""
    mode: PointName
    threshold_f1: float | None = Field(validation_alias=AliasChoices("threshold_f1", "line_f1"))
    """At the best threshold over the guard's probabilities; None without probabilities."""


class Ranking(Settings):
    """Threshold-free ranking metrics of the probabilities."""

    auroc: Estimate
    auprc: Estimate


class Bin(Settings):
    """Rows whose risk falls within one bin."""

    low: float
    high: float
    rows: int
    mean_risk: float
    unsafe_share: float


class Calibration(Settings):
    """Reliability of the risk P(Unsafe) + P(Controversial): expected calibration error and bins."""

    rows: int
    ece: float
    bins: tuple[Bin, ...]


class Refusal(Settings):
    """Metrics of refusal detection."""

    point: Point
    silent_rows: int
    """Labelled rows of which the guard did not say."""


class Onset(Settings):
    """Positions at which streams with a known harmful part were stopped, as counts of streams.

    The harmful part is the first span or sentence that people marked. Positions are tokens of the guard.
    """

    streams: int
    early: int
    """Before the part began: right about the row, too soon about the token."""
    exact: int
    within_8: int
    within_32: int
    within_128: int
    late: int
    missed: int


class Leak(Settings):
    """Harmful text that reaches the user at one hold-back; streams stopped early leak nothing."""

    hold_back: int
    mean_tokens: float
    mean_chars: float
    clean_share: float
    """Share of the streams of which nothing harmful came through."""


class PublishedStream(Settings):
    """The metric of Qwen3GuardTest, with its own definitions: see `published_metric`."""

    streams: int
    exact_hit_rate: float
    first_128_rate: float
    bins: dict[str, int]


class CurvePoint(Settings):
    """One point of the curve: a threshold over the risk of streams."""

    threshold: float = Field(validation_alias=AliasChoices("threshold", "line"))
    recall: float
    false_stop_rate: float


class StreamReport(Settings):
    """Streaming metrics of a set whose responses are stopped at the first flag of the strict policy."""

    unsafe_streams: int
    safe_streams: int
    recall: Estimate | None
    false_stop_rate: Estimate | None
    read_share: float | None
    """Mean share of the characters that was released before the stop, over unsafe streams that were stopped."""
    read_tokens_median: float | None
    flicker_share: float | None
    """Share of all streams whose raw verdict turned back from flagged to not flagged."""
    switches_per_100_tokens: float | None
    curve: tuple[CurvePoint, ...] = ()
    onset: Onset | None = None
    leaks: tuple[Leak, ...] = ()
    published: PublishedStream | None = None


class Decisions(Settings):
    """One character per row, in the order of the set, to compare pairs of reports; contains no text.

    Truth is `1` Unsafe, `0` Safe, `c` Controversial, `-` no label; a decision is `1` flagged, `0` not, `!` not judged.
    """

    truth: str
    strict: str
    loose: str
    policy: str


class SetReport(Settings):
    """One side of one set."""

    name: str
    side: Side
    perturbation: str | None = Field(default=None, validation_alias=AliasChoices("perturbation", "disguise"))
    rows: int
    errors: int
    sampled_from: int | None = None
    sha256: str
    source: str
    revision: str | None = None
    licence: str
    labels: str
    points: dict[PointName, Point]
    oracle: Oracle | None = None
    ranking: Ranking | None = None
    calibration: Calibration | None = None
    refusal: Refusal | None = None
    languages: Mapping[str, Point] = {}
    """At strict; only of sets in several languages."""
    stream: StreamReport | None = None
    wall_s: float
    decisions: Decisions

    @property
    def key(self) -> str:
        """Name in tables: unique within a report."""
        return set_key(self.name, self.side) + (f" [{self.perturbation}]" if self.perturbation else "")


def set_key(name: str, side: Side) -> str:
    """Return what one side of a set is called in tables."""
    return f"{name} ({side})"


class ColumnReport(Settings):
    """Rows behind a published figure."""

    name: str
    kind: Kind
    comparable: Comparable
    note: str
    rows: int
    sha256: str
    whole_set: str | None = None
    """Key of the set whose labelled rows are just these; None for a part of one or parts of several."""
    errors: int
    points: dict[PointName, Point]

    @property
    def published_name(self) -> str:
        """Name in the published tables, without the remark on our rows."""
        return self.name.partition(" (")[0]


class ExcludedColumn(Settings):
    """A published column that this run forms no column with."""

    name: str
    reason: str


class CategoryTable(Settings):
    """Unsafe rows with a category, all sets of one side together: what people say against what the guard names.

    The last two columns are rows flagged under no category and rows not flagged.
    """

    side: Side
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class PerturbationDelta(Settings):
    """Change of the metrics under a perturbation, over the same rows, at strict."""

    perturbation: str = Field(validation_alias=AliasChoices("perturbation", "disguise"))
    set_name: str
    """`all` for all sets together."""
    rows: int
    recall: float | None
    recall_change: Estimate | None
    false_positive_rate: float | None
    false_positive_rate_change: Estimate | None


class FlaggedSlice(Settings):
    """Flagged share of the harmless rows of one language, group or identity, at strict."""

    name: str
    rows: int
    flagged: int
    share: Estimate
    is_raised: bool = False
    """True if the share is over twice that of all rows of the side."""


class EverydayReport(Settings):
    """Harmless rows of one side: prompts flagged, or responses cut."""

    side: Side
    whole: FlaggedSlice
    languages: tuple[FlaggedSlice, ...]
    groups: tuple[FlaggedSlice, ...]
    identities: tuple[FlaggedSlice, ...]


class FlipSlice(Settings):
    """Contrast sets that do not get one decision, at strict; all rows of one have the same label."""

    name: str
    contrast_sets: int
    flipped: int
    flip_rate: Estimate
    pairs: int
    """Pairs of rows within a contrast set."""
    differing_pairs: int

    @property
    def pair_rate(self) -> float:
        """Share of the pairs whose two decisions differ."""
        return self.differing_pairs / self.pairs


class CueVariant(Settings):
    """Errors on the rows that carry one variant of a cue, at strict."""

    cue: str
    variant: str
    safe_rows: int
    flagged: int
    unsafe_rows: int
    missed: int


class FlipReport(Settings):
    """Dependence of decisions on surface cues."""

    whole: FlipSlice
    cues: tuple[FlipSlice, ...]
    sides: tuple[FlipSlice, ...]
    labels: tuple[FlipSlice, ...]
    languages: tuple[FlipSlice, ...]
    variants: tuple[CueVariant, ...]


class LanguageFigures(Settings):
    """One language on one side, all sets together; recall and false positives at strict."""

    side: Side
    language: str
    unsafe_rows: int
    safe_rows: int
    recall: Estimate | None
    false_positive_rate: Estimate | None
    auroc: Estimate | None


class WorstLanguage(Settings):
    """The language with the worst value of a figure on one side."""

    side: Side
    figure: Literal["recall", "false_positive_rate", "auroc"]
    language: str
    value: Estimate
    rows: int
    """Rows behind the value."""
    languages: int
    """Languages compared."""
    tied: tuple[str, ...] = ()
    """Other languages with the same value, on fewer rows."""


class GuardReport(Settings):
    """One guard on some sets, with all that is needed to do it again."""

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    guard: dict[str, Any]  # Any: JSON values
    suite: str
    command: str
    date: str
    versions: dict[str, str]
    hardware: dict[str, Any]  # Any: JSON values
    cost: dict[str, Any]  # Any: JSON values
    sets: tuple[SetReport, ...]
    columns: tuple[ColumnReport, ...] = ()
    excluded: tuple[ExcludedColumn, ...] = Field(default=(), validation_alias=AliasChoices("excluded", "left_out"))
    categories: tuple[CategoryTable, ...] = ()
    calibration: Mapping[Side, Calibration] = {}
    """Over all sets of a side together."""
    languages: Mapping[str, Point] = {}
    """Over all sets together, at strict."""
    perturbations: tuple[PerturbationDelta, ...] = Field(
        default=(), validation_alias=AliasChoices("perturbations", "disguises")
    )
    headlines: tuple[str, ...] = ()
    """The answers to the suite's questions, in sentences."""
    everyday: tuple[EverydayReport, ...] = ()
    """Results of the suite `everyday`."""
    flips: FlipReport | None = None
    """Results of the suite `cues`."""
    language_figures: tuple[LanguageFigures, ...] = ()
    """Results of the suite `languages`."""
    worst_languages: tuple[WorstLanguage, ...] = ()

    @property
    def name(self) -> str:
        """The guard's name."""
        return str(self.guard["name"])

    @property
    def plain_sets(self) -> Sequence[SetReport]:
        """Sets without a perturbation."""
        return [each for each in self.sets if each.perturbation is None]


def read_report(path: Path) -> GuardReport:
    """Read a report.

    Args:
        path: A `report.json`, or the folder that holds it.

    Raises:
        InputError: It cannot be read or is not a report.
    """
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read as a report: {reason_of(error)}") from error
    try:
        return GuardReport.parse(values, source=str(file))
    except ConfigError as error:
        raise InputError(f"{str(file)!r} is not a report of this version: {str(error)[:300]}") from error
