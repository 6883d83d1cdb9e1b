"""Labels kept apart from the texts they belong to, so that they can be shared where the texts cannot."""

from collections.abc import Mapping
from pathlib import Path

from streamward.data.rows import Row, read_rows
from streamward.errors import InputError

FIELDS = frozenset({"prompt_label", "response_label", "refusal", "categories"})

Labels = Mapping[str, Row]
"""Label fields by the id of their row."""


def read_labels(path: Path) -> Labels:
    """Read a file of labels: one JSON object a line, with the `id` of a row and any of `FIELDS`.

    Raises:
        InputError: The file cannot be read, an id is missing or repeated, or a line has another field.
    """
    labels: dict[str, Row] = {}
    for number, row in read_rows(path):
        row_id = row.pop("id", None)
        if not isinstance(row_id, str):
            raise InputError(f"{path}:{number}: a label needs the id of its row, a string")
        if row_id in labels:
            raise InputError(f"{path}:{number}: the id is labelled twice")
        if not row or not row.keys() <= FIELDS:
            raise InputError(f"{path}:{number}: a label has an id and any of {', '.join(sorted(FIELDS))}")
        labels[row_id] = row
    return labels


def with_labels(row: Row, labels: Labels) -> Row:
    """Return the row with the label fields given for its id; they go before its own."""
    return {**row, **labels.get(str(row.get("id", "")), {})}
