"""Labels of translations."""

import json
from pathlib import Path

import pytest

from streamward.data.labels import read_labels
from streamward.data.rows import Row
from streamward.errors import ConfigError
from streamward.train.project_labels import project, run


def parallel(language: str, count: int, *, part: str = "crime") -> list[Row]:
    return [
        {"id": f"{language}-{part}-{index}", "lang": language, "prompt": "x", "native": {"scene": part}}
        for index in range(count)
    ]


def labels(*levels: str, part: str = "crime") -> dict[str, Row]:
    return {f"en-{part}-{index}": {"prompt_label": level} for index, level in enumerate(levels)}


def projected(rows: list[Row], given: dict[str, Row]) -> dict[str, str]:
    found = project(rows, given, language="en", part="scene")
    return {row_id: label["prompt_label"] for row_id, label in found.items()}


def test_rows_of_a_part_are_paired_by_their_order() -> None:
    rows = [*parallel("de", 2), *parallel("en", 2), *parallel("en", 1, part="war"), *parallel("de", 1, part="war")]
    given = labels("Safe", "Unsafe") | labels("Unsafe", part="war")
    assert projected(rows, given) == given_levels(given) | {
        "de-crime-0": "Safe",
        "de-crime-1": "Unsafe",
        "de-war-0": "Unsafe",
    }


def test_where_a_row_is_missing_only_labels_beyond_doubt_are_carried_over() -> None:
    rows = [*parallel("en", 5), *parallel("fr", 4)]
    given = labels("Unsafe", "Unsafe", "Unsafe", "Safe", "Safe")
    assert projected(rows, given) == given_levels(given) | {"fr-crime-0": "Unsafe", "fr-crime-1": "Unsafe"}


def test_a_row_whose_source_has_no_label_gets_none() -> None:
    rows = [*parallel("en", 2), *parallel("fr", 2)]
    assert projected(rows, labels("Safe")) == {"en-crime-0": "Safe", "fr-crime-0": "Safe"}


def test_a_part_that_differs_by_too_much_is_left_out() -> None:
    assert projected([*parallel("en", 9), *parallel("fr", 6)], labels(*["Safe"] * 9)).keys() == set(
        labels(*["Safe"] * 9)
    )


def given_levels(given: dict[str, Row]) -> dict[str, str]:
    return {row_id: label["prompt_label"] for row_id, label in given.items()}


def test_a_run_writes_labels_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [*parallel("en", 2), *parallel("ja", 2)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = [{"id": "en-crime-1", "prompt_label": "Unsafe", "categories": ["Violent"]}]
    Path("en.jsonl").write_text("\n".join(map(json.dumps, given)), encoding="utf-8")
    config = 'input = "rows.jsonl"\nlabels = "en.jsonl"\npart = "scene"\noutput = "out/all.jsonl.gz"\n'
    Path("run.toml").write_text(config, encoding="utf-8")
    written = read_labels(run(Path("run.toml")))
    assert written.keys() == {"en-crime-1", "ja-crime-1"}
    Path("run.toml").write_text(config + 'language = "sw"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="no row of the language 'sw'"):
        run(Path("run.toml"))
