"""Finds judged rows that may share a column: with a published figure, or with another guard's."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from streamward.errors import InputError
from streamward.evals.predictions import PUBLISHED, LabelledRow, Prediction, SetResult
from streamward.evals.registry import IN_ONE_COLUMN, Column
from streamward.schema import Side


@dataclass(frozen=True, slots=True)
class Cohort:
    """Rows of one column, judged by one guard.

    Attributes:
        column: The column's name.
        rows: Labelled rows.
        predictions: One a row.
    """

    column: str
    rows: tuple[LabelledRow, ...]
    predictions: tuple[Prediction, ...]

    def sha256(self) -> str:
        """Return the hash of texts and labels, whatever the rows are called and however they are ordered."""
        facts = [
            [row.side.value, row.prompt, row.text, row.label and row.label.value, row.refusal] for row in self.rows
        ]
        return hashlib.sha256("\n".join(sorted(map(json.dumps, facts))).encode()).hexdigest()


def cohort(column: Column, results: Sequence[SetResult]) -> Cohort:
    """Return the rows behind a published figure, out of a guard's results.

    Raises:
        InputError: The column holds no comparable rows; or a set is missing, was sampled, or has another number of rows
            than the figure was published on.
    """
    if column.comparable not in IN_ONE_COLUMN:
        raise InputError(
            f"{column.name}: our rows are {column.comparable} ({column.note}); they form no column with it"
        )
    side = Side.PROMPT if column.kind == "prompt" else Side.RESPONSE
    plain = {result.set_name: result for result in results if result.side is side and result.perturbation is None}
    pairs: list[tuple[LabelledRow, Prediction]] = []
    for member in column.members:
        pairs += _published(column, plain.get(member.set), member.set)
    if column.comparable == "same" and len(pairs) != column.rows:
        raise InputError(f"{column.name}: {len(pairs)} rows were judged, the figure was published on {column.rows}")
    return Cohort(column.name, tuple(row for row, _ in pairs), tuple(prediction for _, prediction in pairs))


def _published(column: Column, result: SetResult | None, name: str) -> list[tuple[LabelledRow, Prediction]]:
    if result is None:
        raise InputError(f"{column.name}: {name} was not judged")
    if result.sampled_from is not None:
        raise InputError(f"{column.name}: only {len(result.rows)} of {result.sampled_from} rows of {name} were judged")
    return [
        (row, prediction)
        for row, prediction in zip(result.rows, result.predictions, strict=True)
        if row.cohort == PUBLISHED and (row.refusal if column.kind == "refusal" else row.label) is not None
    ]
