"""Report on the rows read, the rows dropped and why, and the contents of the splits."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streamward.data.jsonl import Sample
from streamward.data.rows import replacing
from streamward.train.data.filtering import SourceTally

BALANCED_OUT = "balanced out"


class DataReport:
    """Counts of a run, as a table and as JSON."""

    def __init__(self, tallies: Sequence[SourceTally], *, splits: Sequence[str]) -> None:
        """Begin with what became of the sources.

        Args:
            tallies: One a source.
            splits: Names, `train` first.
        """
        self.split_names = tuple(splits)
        self._tallies = tallies
        self._rows: dict[str, Counter[str]] = defaultdict(Counter)  # source -> split or BALANCED_OUT
        self._contents: dict[str, Counter[str]] = defaultdict(Counter)  # dimension -> value

    def count(self, source: str, sample: Sample, split: str | None) -> None:
        """Note where a row went; None: nowhere."""
        self._rows[source][split or BALANCED_OUT] += 1
        if split is None:
            return
        self._contents["language"][sample.language or "unknown"] += 1
        self._contents["kind"][sample.kind or "unknown"] += 1
        if sample.prompt_label is not None:
            self._contents["prompt label"][sample.prompt_label.value] += 1
        if sample.response_label is not None:
            self._contents["response label"][sample.response_label.value] += 1
        if sample.refusal is not None:
            self._contents["refusal"][str(sample.refusal).lower()] += 1
        self._contents["category"].update(category.value for category in sample.categories)
        self._contents["onset"]["marked"] += sample.unsafe_start is not None or sample.spans is not None

    def table(self) -> str:
        """Return the report as text."""
        reasons = list(dict.fromkeys(reason for tally in self._tallies for reason in sorted(tally.dropped)))
        header = ["source", "read", *reasons, BALANCED_OUT, *self.split_names]
        lines = [[tally.name, *self._numbers(tally, reasons)] for tally in self._tallies]
        totals = [sum(int(line[column]) for line in lines) for column in range(1, len(header))]
        text = _align([header, *lines, ["all", *map(str, totals)]])
        for name, found in self._contents.items():
            text += f"\n{name}: " + ", ".join(f"{value} {number:,}" for value, number in found.most_common())
        benchmarks = self._benchmarks()
        if benchmarks:
            text += "\nshared with: " + ", ".join(f"{name} {number:,}" for name, number in benchmarks.most_common())
        return text

    def write(self, folder: Path) -> None:
        """Write `report.json` and `report.txt`."""
        with replacing(folder / "report.json") as file:
            json.dump(self._as_json(), file, indent=2, ensure_ascii=False)
            file.write("\n")
        with replacing(folder / "report.txt") as file:
            file.write(self.table() + "\n")

    def _as_json(self) -> dict[str, Any]:  # Any: JSON values
        sources = {
            tally.name: {"read": tally.read, "dropped": dict(tally.dropped), "went": dict(self._rows[tally.name])}
            for tally in self._tallies
        }
        contents: Mapping[str, Mapping[str, int]] = self._contents
        return {
            "sources": sources,
            "contents": {name: dict(found) for name, found in contents.items()},
            "benchmarks": dict(self._benchmarks()),
        }

    def _numbers(self, tally: SourceTally, reasons: Iterable[str]) -> list[str]:
        went = self._rows[tally.name]
        numbers = [tally.read, *(tally.dropped[reason] for reason in reasons), went[BALANCED_OUT]]
        return [str(number) for number in (*numbers, *(went[name] for name in self.split_names))]

    def _benchmarks(self) -> Counter[str]:
        return sum((tally.benchmarks for tally in self._tallies), Counter())


def _align(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
