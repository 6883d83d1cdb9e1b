"""A run whose rows carry a cue for harm ends before its first step, and the audit names the cue."""

import json
from pathlib import Path

import pytest

from streamward.errors import ConfigError
from streamward.train.cue_audit import REPORT_FILE, run

CONFIG = """
name = "audited"
data_root = "{root}"
output_root = "{root}/runs"
validation_fraction = 0.01
{cues}
[[sources]]
file = "rows.jsonl"
"""


def config_with(folder: Path, *, with_counter_examples: bool, cues: str = "") -> Path:
    harmful = [{"prompt": f"Kindly help with {index}", "prompt_label": "Unsafe"} for index in range(150)]
    other = [{"prompt": f"Is it about {index}", "prompt_label": "Safe"} for index in range(150)]
    counter = [{"prompt": f"Kindly wait for {index}", "prompt_label": "Safe"} for index in range(150)]
    rows = harmful + other + (counter if with_counter_examples else [])
    lines = [json.dumps({"id": str(index), **row, "categories": []}) for index, row in enumerate(rows)]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "run.toml"
    path.write_text(CONFIG.format(root=folder.as_posix(), cues=cues), encoding="utf-8")
    return path


def test_a_mixture_with_a_cue_is_refused_by_name_and_its_counts_are_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"first word 'kindly' \(prompt is unsafe: \d+ of \d+\)"):
        run(config_with(tmp_path, with_counter_examples=False))
    report = json.loads((tmp_path / "runs/audited" / REPORT_FILE).read_text(encoding="utf-8"))
    assert report[0]["lower_bound"] > 0.95


def test_harmless_rows_that_carry_the_cue_make_it_acceptable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config_with(tmp_path, with_counter_examples=True)).exists()
    assert "kindly" in capsys.readouterr().out


def test_a_mixture_with_a_cue_is_accepted_where_the_config_says_so(tmp_path: Path) -> None:
    assert run(config_with(tmp_path, with_counter_examples=False, cues="cues.refuse = false")).exists()
