"""Which rows are learnt from and which are held back."""

import json
from pathlib import Path

import pytest

from streamward.errors import ConfigError
from streamward.schema import RiskLevel
from streamward.train.config import SourceConfig, StreamTrainConfig
from streamward.train.mixture import Split, draw, held_out_rows


def write(path: Path, count: int, **changes: object) -> None:
    rows = [
        {
            "id": str(index),
            "lang": "en",
            "prompt": f"prompt {index}",
            "prompt_label": "Safe",
            "categories": [],
            **changes,
        }
        for index in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def split(folder: Path, *sources: SourceConfig) -> Split:
    return draw(StreamTrainConfig(name="x", data_root=folder, sources=sources, validation_fraction=0.25))


def prompts(rows) -> list[str]:
    return sorted(row.sample.prompt for row in rows)


def test_a_source_that_is_not_learnt_from_gives_its_held_back_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 200)
    train_set = split(tmp_path, SourceConfig(file="a.jsonl"))
    held_out_rows = split(tmp_path, SourceConfig(file="a.jsonl", learn=False))
    assert held_out_rows.train == []
    assert prompts(held_out_rows.validation) == prompts(train_set.validation)
    assert 20 < len(train_set.validation) < 80


def test_a_file_named_twice_is_held_back_once(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 200)
    once = split(tmp_path, SourceConfig(file="a.jsonl"))
    twice = split(tmp_path, SourceConfig(file="a.jsonl", max_rows=100), SourceConfig(file="a.jsonl", learn=False))
    assert prompts(twice.validation) == prompts(once.validation)
    assert not set(prompts(twice.train)) & set(prompts(twice.validation))


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 50, native={"twin": "t1"})
    found = split(tmp_path, SourceConfig(file="a.jsonl"))
    assert not found.train or not found.validation


def test_a_file_may_lie_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    write(tmp_path / "here" / "a.jsonl", 20)
    monkeypatch.chdir(tmp_path)
    assert split(Path("/nowhere"), SourceConfig(file="./here/a.jsonl")).train


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 5)
    with pytest.raises(ConfigError, match=r"a\.jsonl: no row is left"):
        split(tmp_path, SourceConfig(file="a.jsonl", languages=("fr",)))


def test_a_relabelled_file_is_read_instead_of_its_source(tmp_path: Path) -> None:
    (tmp_path / "labelled").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, 20)
    write(tmp_path / "labelled" / "a.jsonl", 20, prompt_label="Unsafe")
    sources = (SourceConfig(file="a.jsonl"), SourceConfig(file="b.jsonl"))
    config = StreamTrainConfig(name="x", data_root=tmp_path, overlay_root=tmp_path / "labelled", sources=sources)
    labels = {(row.file, row.sample.prompt_label) for row in draw(config).train}
    assert labels == {("a.jsonl", "Unsafe"), ("b.jsonl", "Safe")}


def test_the_halves_share_no_row_and_miss_none(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 200)
    base = StreamTrainConfig(name="x", data_root=tmp_path, sources=(SourceConfig(file="a.jsonl"),))
    whole, first, second = (prompts(draw(base.model_copy(update={"fold": fold})).train) for fold in (None, "A", "B"))
    assert sorted(first + second) == whole
    assert 60 < len(first) < 140


def test_a_response_alone_keeps_its_label_and_its_side_of_the_split(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 200, response="an answer", response_label="Unsafe", prompt_label="Unsafe")
    train_set = split(tmp_path, SourceConfig(file="a.jsonl"))
    alone = split(tmp_path, SourceConfig(file="a.jsonl", use="response-alone"))
    assert len(alone.train) == len(train_set.train)
    assert {(row.sample.prompt, row.sample.prompt_label) for row in alone.train} == {("", None)}
    assert {row.sample.response_label for row in alone.train} == {RiskLevel.UNSAFE}


def test_prompts_without_a_response_are_not_read_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 20)
    with pytest.raises(ConfigError, match="no row is left"):
        split(tmp_path, SourceConfig(file="a.jsonl", use="response-alone"))


def test_what_a_run_holds_back_can_be_read_without_it(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 200)
    held_out = split(tmp_path, SourceConfig(file="a.jsonl")).validation
    found = held_out_rows(tmp_path / "a.jsonl", held_out_fraction=0.25)
    assert sorted(row.prompt for row in found) == prompts(held_out)
    assert len(held_out_rows(tmp_path / "a.jsonl", held_out_fraction=None)) == 200


def test_answers_may_be_learnt_from_under_prompts_of_another_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 100, response="No.", response_label="Safe")
    write(tmp_path / "b.jsonl", 100, prompt_label="Unsafe", response="Yes.")
    others = split(tmp_path, SourceConfig(file="b.jsonl"))
    found = split(tmp_path, SourceConfig(file="a.jsonl", prompts="b.jsonl"))
    assert {row.sample.prompt for row in found.train} <= {row.sample.prompt for row in others.train}
    assert {(row.sample.prompt_label, row.sample.response) for row in found.train} == {(None, "No.")}
    assert {row.sample.prompt_label for row in found.validation} == {RiskLevel.SAFE}
    assert split(tmp_path, SourceConfig(file="a.jsonl", prompts="b.jsonl")) == found


def test_a_file_without_prompts_lends_none(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 10, response="No.", response_label="Safe")
    write(tmp_path / "b.jsonl", 10, prompt="", response="Yes.", response_label="Safe")
    with pytest.raises(ConfigError, match=r"b\.jsonl has no prompt to take"):
        split(tmp_path, SourceConfig(file="a.jsonl", prompts="b.jsonl"))


def test_labels_by_row_id_choose_and_label_the_rows_of_a_source(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 40, prompt_label=None)
    labels = [{"id": str(index), "prompt_label": "Unsafe"} for index in range(0, 40, 2)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)), encoding="utf-8")
    found = split(tmp_path, SourceConfig(file="a.jsonl", labels="labels.jsonl"))
    rows = [row.sample for row in [*found.train, *found.validation]]
    assert sorted(int(row.id) for row in rows) == list(range(0, 40, 2))
    assert all(row.prompt_label is RiskLevel.UNSAFE for row in rows)


def test_variants_are_of_training_rows_only_and_the_same_for_a_seed(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 200)
    config = StreamTrainConfig(
        name="x",
        data_root=tmp_path,
        sources=(SourceConfig(file="a.jsonl"),),
        validation_fraction=0.25,
        variant_fraction=0.5,
    )
    plain, varied = split(tmp_path, SourceConfig(file="a.jsonl")), draw(config)
    changed = set(prompts(varied.train)) - set(prompts(plain.train))
    assert 15 < len(changed) < 110
    assert prompts(varied.validation) == prompts(plain.validation)
    assert prompts(draw(config).train) == prompts(varied.train)
