"""Predictions on disk while a run goes on: append-only, flushed a batch at a time, repaired after a kill."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from streamward.closing import ClosedOnExit
from streamward.errors import InputError
from streamward.evals.predictions import LabelledRow, Prediction, append_predictions, decode


def row_key(row: LabelledRow) -> str:
    """Return the key of what is judged in a row: side, context and text. Rows that repeat a text share it."""
    facts = json.dumps([row.side.value, row.prompt, row.text])
    return hashlib.sha256(facts.encode()).hexdigest()[:24]


class PredictionCache(ClosedOnExit):
    """One file of predictions of one guard. Use it in a `with` block; one process at a time.

    Rows are kept under the key of their text. A row that failed is tried again by the next run: only answers count as
    done.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line cut off by a kill is removed.

        Raises:
            InputError: A line before the last is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._found: dict[str, Prediction] = {}
        if path.exists():
            self._read(path)
        self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def done(self, rows: Iterable[LabelledRow]) -> dict[str, Prediction]:
        """Return the answers there are for some rows, by key."""
        keys = {row_key(row) for row in rows}
        return {key: self._found[key] for key in keys & self._found.keys() if self._found[key].error is None}

    def add(self, predictions: Mapping[str, Prediction]) -> None:
        """Append predictions by key and bring them to the disk."""
        self._found.update(predictions)
        append_predictions(self._file, (replace(each, row_id=key) for key, each in predictions.items()))
        os.fsync(self._file.fileno())

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                prediction = decode(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number} is damaged; delete the file to judge its rows again"
                ) from error
            self._found[prediction.row_id] = prediction
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)
