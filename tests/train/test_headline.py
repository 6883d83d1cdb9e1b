import json
from pathlib import Path

import pytest

from streamward.train.headline import headline

ALL = {"rows": 120.0, "f1": 0.9123, "recall": 0.9, "false_positive_rate": 0.034}
REPORTS = {
    "report.json": {"held_out": {"prompt": {"all": ALL, "by_file": {}}, "response": {"all": {"rows": 3, "f1": 0.5}}}},
    "calibration.json": {"prompt": {"rows": 120, "temperature": 1.1, "strict": {**ALL, "line": 0.4}, "loose": ALL}},
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_stage_ends_with_its_figures_and_the_place_of_its_report(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps(REPORTS[name]))
    told = headline(tmp_path)
    assert told.startswith("prompts: F1 0.912, 3.4 % false positives (120 held-out rows); ")
    assert told.endswith(f"report: {tmp_path / name}")


def test_a_stage_without_figures_names_its_report_or_what_it_wrote(tmp_path: Path) -> None:
    assert headline(tmp_path / "table.md") == f"written: {tmp_path / 'table.md'}"
    (tmp_path / "distill.json").write_text("{}")
    assert headline(tmp_path) == f"report: {tmp_path / 'distill.json'}"
