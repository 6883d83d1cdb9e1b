"""The figures a stage ends with, out of the report it has written."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from streamward.schema import Side

_REPORTS = (
    "report.json",
    "calibration.json",
    "ablation.json",
    "controversial.json",
    "distill.json",
    "token-labels.json",
)


def headline(written: Path) -> str:
    """Return one line on what a stage has written: F1 and false positives on held-out rows, and where its report is.

    Args:
        written: What the stage has returned: its folder, or a file in it.
    """
    folder = written if written.is_dir() else written.parent
    found = [folder / name for name in _REPORTS if (folder / name).exists()]
    if found:  # calibration leaves the report of the training beside its own
        report = max(found, key=lambda path: path.stat().st_mtime_ns)
        return "; ".join([*_figures(json.loads(report.read_text(encoding="utf-8"))), f"report: {report}"])
    page = folder / "report.md"
    return f"report: {page}" if page.exists() else f"written: {written}"


def _figures(report: Mapping[str, Any]) -> Iterator[str]:  # Any: JSON values
    for side in Side:
        own = report.get("held_out", report).get(side.value, {})
        found = own.get("all") or own.get("strict")
        if not isinstance(found, dict) or "f1" not in found:
            continue
        rows = found.get("rows", own.get("rows", 0))
        false = found.get("false_positive_rate")
        flagged = "" if false is None else f", {100 * false:.1f} % false positives"
        yield f"{side.value}s: F1 {found['f1']:.3f}{flagged} ({rows:.0f} held-out rows)"
