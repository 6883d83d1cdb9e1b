"""Data of a benchmark run: labelled rows, predictions, results of sets, and their files.

Metrics and reports are computed from these values alone, so a report can be made again without judging anything twice.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from streamward.schema import Category, RiskLevel, Side, Span

PUBLISHED = "published"
"""Cohort of the rows behind a published figure."""
OURS = "ours"
"""Cohort of all other rows."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Position where a policy first stopped a text.

    Attributes:
        position: Index of the token, 0-based, among the tokens judged.
        char: End of the token's span: a stop right after this token lets so many characters out.
    """

    position: int
    char: int


@dataclass(frozen=True, slots=True)
class TokenRisk:
    """One judged token of a response.

    Attributes:
        start: Its first character in the text.
        end: Past its last.
        unsafe: P(Unsafe), rounded to four digits.
        controversial: P(Controversial), likewise.
    """

    start: int
    end: int
    unsafe: float
    controversial: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Prediction of a guard for one row.

    A row that could not be judged has an `error` and None in every field about the text: it has no label, not a wrong
    one.

    Attributes:
        row_id: Unique within the set and side.
        risk_level: The level at the guard's shipped operating point.
        probabilities: Probability of each level; None where a guard gives labels only. For a streamed response, the
            probabilities where its risk was highest or its level was first reached.
        category: The kind of harm it named first.
        refusal: Whether the response declines to help; None where the guard does not say.
        flagged_strict: Whether the built-in strict policy would stop the text.
        flagged_loose: Whether the built-in loose policy would.
        flagged: Whether the policy of the run would.
        flag: Where the strict policy would stop a streamed response.
        switches: Times the raw verdict of a streamed response turned from Safe to anything else, or back.
        tokens: Every judged token of a response; None unless the set asks for stream metrics and the guard streams.
        latency_ms: Time from question to answer; of rows judged in one batch, the batch's time.
        cost_ms: The row's share of the time the guard was busy; the sum over a set is the set's time.
        num_tokens: Tokens judged, where the guard says.
        error: Stable code of the error.
    """

    row_id: str
    risk_level: RiskLevel | None = None
    probabilities: Mapping[RiskLevel, float] | None = None
    category: Category | None = None
    refusal: bool | None = None
    flagged_strict: bool | None = None
    flagged_loose: bool | None = None
    flagged: bool | None = None
    flag: Flag | None = None
    switches: int | None = None
    tokens: tuple[TokenRisk, ...] | None = None
    latency_ms: float | None = None
    cost_ms: float = 0.0
    num_tokens: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Slices:
    """Parts of a set that a row belongs to; empty where a set does not say.

    Attributes:
        group: Who writes it, such as `developer`.
        identity: An identity that the text names.
        contrast_set: Rows that differ in one surface cue share it.
        cue: The kind of surface cue in which they differ.
        variant: The cue of this row.
    """

    group: str = ""
    identity: str = ""
    contrast_set: str = ""
    cue: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One text with what people say of it.

    Attributes:
        id: Unique within the set and side.
        side: Which side is judged.
        text: The text judged.
        prompt: The user's text; None if not known, and on prompts.
        label: What people say; None where a set labels something else, such as refusals.
        categories: Kinds of harm, of ours; empty where unknown.
        language: ISO 639-1.
        refusal: Whether people call the response a refusal; None where they do not say.
        spans: The harmful characters, where people marked them; empty if they found none.
        unsafe_start: First character from which the text is harmful, where known.
        cohort: `published` for rows behind a published figure, else `ours`.
        slices: Parts of the set that it belongs to.
    """

    id: str
    side: Side
    text: str
    prompt: str | None = None
    label: RiskLevel | None = None
    categories: tuple[Category, ...] = ()
    language: str = "en"
    refusal: bool | None = None
    spans: tuple[Span, ...] | None = None
    unsafe_start: int | None = None
    cohort: str = OURS
    slices: Slices = Slices()


@dataclass(frozen=True, slots=True)
class SetResult:
    """One side of one set, judged.

    Attributes:
        set_name: As in the registry.
        side: Which side was judged.
        rows: Labelled rows.
        predictions: One a row, in the same order.
        perturbation: Perturbation under which the texts were judged; None for the original texts. Perturbed rows
            have no spans and no `unsafe_start`.
        set_sha256: SHA-256 of the judged rows, labels included.
        wall_s: Time the guard was busy with it.
        sampled_from: Rows of the whole set where only a sample was judged; None when all were.
    """

    set_name: str
    side: Side
    rows: tuple[LabelledRow, ...]
    predictions: tuple[Prediction, ...]
    perturbation: str | None = None
    set_sha256: str = ""
    wall_s: float = 0.0
    sampled_from: int | None = None


@dataclass(frozen=True, slots=True)
class GuardRun:
    """One guard on some sets, with all that is needed to do it again.

    Attributes:
        guard: `name`, `kind` (stream, gen, endpoint, moderations, callable, any-guardrail, keyword, tfidf), `identity`
            (SHA-256 over weights and settings), `policy`, `settings`; JSON values.
        sets: The sets judged.
        versions: Package name to version.
        command: As typed.
        date: ISO 8601, UTC.
        hardware: `cpu`, `cores`, `threads`, `gpu`, `memory_gb`.
        cost: `num_rows`, `num_errors`, `num_tokens`, `wall_s`, `tokens_per_s`, and `alone_ms_p50`, `alone_ms_p95`
            (latency of single rows of a fixed sample, judged one by one) where measured.
        suite: Name of the suite.
    """

    guard: Mapping[str, Any]  # Any: JSON values
    sets: tuple[SetResult, ...]
    versions: Mapping[str, str]
    command: str
    date: str
    hardware: Mapping[str, Any]  # Any: JSON values
    cost: Mapping[str, Any]  # Any: JSON values
    suite: str = "all"


def encode(prediction: Prediction) -> dict[str, Any]:  # Any: JSON values
    """Return a prediction as JSON values; fields that are None are left out."""
    plain: dict[str, Any] = {"row_id": prediction.row_id}
    for name in (
        "risk_level",
        "category",
        "refusal",
        "flagged_strict",
        "flagged_loose",
        "flagged",
        "switches",
        "error",
    ):
        if (value := getattr(prediction, name)) is not None:
            plain[name] = value
    if prediction.probabilities is not None:
        plain["probabilities"] = {level.value: round(value, 6) for level, value in prediction.probabilities.items()}
    if prediction.flag is not None:
        plain["flag"] = [prediction.flag.position, prediction.flag.char]
    if prediction.tokens is not None:
        plain["tokens"] = [[each.start, each.end, each.unsafe, each.controversial] for each in prediction.tokens]
    if prediction.latency_ms is not None:
        plain["latency_ms"] = round(prediction.latency_ms, 3)
    plain["cost_ms"] = round(prediction.cost_ms, 3)
    if prediction.num_tokens is not None:
        plain["num_tokens"] = prediction.num_tokens
    return plain


def decode(plain: Mapping[str, Any]) -> Prediction:  # Any: JSON values
    """Return the prediction that `encode` wrote.

    Raises:
        KeyError, TypeError, ValueError: It did not write this.
    """
    values = dict(plain)
    if (level := values.get("risk_level")) is not None:
        values["risk_level"] = RiskLevel(level)
    if (category := values.get("category")) is not None:
        values["category"] = Category(category)
    if (probabilities := values.get("probabilities")) is not None:
        values["probabilities"] = {RiskLevel(name): float(value) for name, value in probabilities.items()}
    if (flag := values.get("flag")) is not None:
        values["flag"] = Flag(*flag)
    if (tokens := values.get("tokens")) is not None:
        values["tokens"] = tuple(TokenRisk(*token) for token in tokens)
    return Prediction(**values)


def append_predictions(file: IO[str], predictions: Iterable[Prediction]) -> None:
    """Append predictions to an open file, one JSON object per line, and flush it."""
    file.writelines(json.dumps(encode(each), ensure_ascii=True) + "\n" for each in predictions)
    file.flush()
