"""Counts of the rows that a synthesis run made."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from streamward.data.rows import replacing
from streamward.train.synthesize.rows import SyntheticRow


def count_rows(rows: Sequence[SyntheticRow]) -> dict[str, dict[str, int]]:
    """Count rows by family, language, label and kind of harm."""
    return {
        "families": _count(row.family for row in rows),
        "languages": _count(row.language for row in rows),
        "prompt_labels": _count(str(row.prompt_label) for row in rows),
        "response_labels": _count(str(row.response_label) for row in rows if row.response is not None),
        "refusals": _count(str(row.refusal) for row in rows if row.response is not None),
        "categories": _count(category.value for row in rows for category in row.categories),
        "onsets": {"late": sum(bool(row.unsafe_start) for row in rows)},
    }


def write_report(
    path: Path, rows: Sequence[SyntheticRow], *, writer: Mapping[str, int], missing: Mapping[str, int]
) -> str:
    """Write the counts as JSON and return them as lines.

    Args:
        path: A JSON file.
        rows: What was made.
        writer: Answers of the model that wrote, by what became of them; empty if there was none.
        missing: Rows that were wanted and could not be made, by language and family.
    """
    counts = count_rows(rows)
    if missing:
        counts["missing"] = dict(missing)
    if writer:
        counts["writer"] = dict(writer)
    with replacing(path) as file:
        json.dump({"rows": len(rows), **counts}, file, indent=2, ensure_ascii=False)
        file.write("\n")
    lines = [f"{len(rows)} rows"]
    for name, found in counts.items():
        lines.append(f"{name}: " + ", ".join(f"{key} {number}" for key, number in found.items()))
    return "\n".join(lines)


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
