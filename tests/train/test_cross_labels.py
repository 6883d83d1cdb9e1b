"""`streamward train controversial` and `distill`: guards of one half label the other."""

import json
from pathlib import Path

import pytest

from streamward.data.jsonl import parse_row
from streamward.data.rows import read_rows
from streamward.schema import RiskLevel, Side
from streamward.train import controversial, distill
from streamward.train.config import RunConfig
from streamward.train.controversial import conflict
from streamward.train.distill import refine
from streamward.train.mixture import draw
from streamward.train.recipe import RecipeConfig, run_once, score_rows
from streamward.train.scoring import Score
from tests.train.tiny import config, row

GEN_KEYS = ("inner_size", "head_lr")


def score(risky: float, unsafe: float = 0.0, level: RiskLevel = RiskLevel.SAFE) -> Score:
    return Score(0, Side.PROMPT, unsafe, risky, level)


@pytest.mark.parametrize(
    ("loose", "strict", "level"),
    [(0.1, 0.9, "Controversial"), (0.1, 0.2, "Unsafe"), (0.9, 0.9, "Unsafe"), (0.9, 0.1, "Unsafe")],
)
def test_only_what_strict_flags_and_loose_does_not_is_controversial(loose: float, strict: float, level: str) -> None:
    scores = {"loose": score(loose, level=RiskLevel.UNSAFE), "strict": score(strict, level=RiskLevel.UNSAFE)}
    assert conflict(scores) == level


@pytest.mark.parametrize(
    ("risky", "unsafe", "level"), [(0.99, 0.98, "Unsafe"), (0.99, 0.02, "Controversial"), (0.6, 0.6, "Safe")]
)
def test_a_teacher_is_heard_where_it_is_sure(risky: float, unsafe: float, level: str) -> None:
    assert refine({"teacher": score(risky, unsafe)}, min_confidence=0.9) == level


def with_wrong_labels(workplace: Path) -> set[str]:
    """Turn every tenth label round and say which."""
    rows = [row(index) for index in range(160)]
    for each in rows[::10]:
        each["prompt_label"] = "Safe"
    (workplace / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {str(each["id"]) for each in rows[::10]}


def stage_config(workplace: Path, recipe: Path, *, kind: str = "stream", **changes: object) -> Path:
    values = {"name": "labelled", "output_root": str(workplace / "runs"), **changes}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = workplace / "stage.toml"
    path.write_text("\n".join([*lines, "[recipe]", f'kind = "{kind}"', f'config = "{recipe}"', ""]))
    return path


def test_a_teacher_mends_wrong_labels_of_the_half_it_has_not_seen(workplace: Path) -> None:
    wrong = with_wrong_labels(workplace)
    recipe = config(workplace, "teacher", epochs=8.0)
    folder = distill.run(stage_config(workplace, recipe, min_confidence=0.6))
    rows = [each for _, each in read_rows(folder / "rows" / "rows.jsonl")]
    mended = {each["id"] for each in rows if "prompt_label_before" in each.get("native", {})}
    assert len(rows) == 160
    assert len(mended & wrong) >= len(wrong) / 2
    assert len(mended - wrong) <= (160 - len(wrong)) / 5
    report = json.loads((folder / "distill.json").read_text())
    assert sum(report["changed"]["rows.jsonl"].values()) >= len(mended)


def test_a_stage_may_leave_rows_alone_that_its_recipe_does_not_draw(workplace: Path) -> None:
    with_wrong_labels(workplace)
    recipe = config(workplace, "teacher", epochs=2.0)
    recipe.write_text(recipe.read_text().replace('file = "rows.jsonl"', 'file = "rows.jsonl"\nmax_rows = 60'))
    drawn = {each.sample.id for part in draw(RecipeConfig(config=recipe).read()) for each in part}
    folder = distill.run(stage_config(workplace, recipe, min_confidence=0.51, only_drawn=True))
    rows = [each for _, each in read_rows(folder / "rows" / "rows.jsonl")]
    changed = {each["id"] for each in rows if each.get("native")}
    assert len(rows) == 160
    assert len(drawn) == 60
    assert set() < changed <= drawn


def test_a_stage_cut_off_goes_on_where_it_stopped(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stage_config(workplace, config(workplace, "teacher", epochs=1.0))
    train = run_once

    def fail_at_the_second(run_config: RunConfig) -> Path:
        if run_config.name.startswith("B"):
            raise KeyboardInterrupt
        return train(run_config)

    with monkeypatch.context() as patched:
        patched.setattr("streamward.train.distill.run_once", fail_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            distill.run(path)
    guard = workplace / "runs" / "labelled" / "guards" / "A-teacher" / "adapter.safetensors"
    written = guard.stat().st_mtime_ns
    folder = distill.run(path)
    assert guard.stat().st_mtime_ns == written
    assert (folder / "rows" / "rows.jsonl").exists()


def test_changed_settings_label_anew(workplace: Path) -> None:
    recipe = config(workplace, "teacher", epochs=1.0)
    folder = distill.run(stage_config(workplace, recipe, min_confidence=0.51))
    loose = json.loads((folder / "distill.json").read_text())["changed"]
    distill.run(stage_config(workplace, recipe, min_confidence=1.0))
    assert json.loads((folder / "distill.json").read_text())["changed"] == {"rows.jsonl": {}} != loose


def test_loose_and_strict_guards_label_each_others_halves(workplace: Path) -> None:
    recipe = config(workplace, "pair", epochs=2.0)
    folder = controversial.run(stage_config(workplace, recipe, ratios=[3.0]))
    report = json.loads((folder / "controversial.json").read_text())
    assert set(report["guards"]) == {"A-loose", "A-strict", "B-loose", "B-strict"}
    assert report["guards"]["A-loose"][0]["ratio"] == 3.0
    labels = {each["prompt_label"] for _, each in read_rows(folder / "rows" / "rows.jsonl")}
    assert labels <= {"Safe", "Unsafe", "Controversial"}


def test_gen_guards_can_be_teachers_too(workplace: Path) -> None:
    recipe = config(workplace, "teacher", without=GEN_KEYS, epochs=0.2)
    folder = distill.run(stage_config(workplace, recipe, kind="gen"))
    assert len(list(read_rows(folder / "rows" / "rows.jsonl"))) == 120


def test_rows_without_a_label_get_no_score(workplace: Path) -> None:
    guard = run_once(RecipeConfig(config=config(workplace, "g", epochs=0.2)).read())
    samples = [parse_row({"prompt": "a"}, source="s"), parse_row({"prompt": "b", "prompt_label": "Safe"}, source="s")]
    assert [each.example for each in score_rows(guard, samples, max_tokens=64)] == [1]
