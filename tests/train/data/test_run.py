"""`streamward train data` from files to splits and a report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from streamward.cli.main import main
from streamward.data.decontaminate import Benchmarks
from streamward.data.rows import Row, read_rows, write_rows
from streamward.errors import ConfigError, InputError
from streamward.train.data import run as stage
from streamward.train.data.run import run


def row(number: int, **fields: Any) -> Row:
    label = "Unsafe" if number % 2 else "Safe"
    native = {"twin": f"t{number // 2}", "own": number}
    return {
        "id": f"a-{number}",
        "lang": "en",
        "prompt": f"ask {number}",
        "prompt_label": label,
        "native": native,
        **fields,
    }


def toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f'"{key}" = {toml(inner)}' for key, inner in value.items()) + "}"
    return json.dumps(value) if not isinstance(value, list) else "[" + ", ".join(map(toml, value)) + "]"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sources and a benchmark."""
    write_rows(tmp_path / "own.jsonl.gz", [row(number) for number in range(60)])
    others = [
        row(0),
        row(2, prompt_label="Unsafe"),
        row(100, lang="de"),
        row(7, prompt="held", native={}),
        {"prompt": "?", "native": {}},
    ]
    write_rows(tmp_path / "others.jsonl", others)
    write_rows(tmp_path / "bench" / "set.jsonl", [{"prompt": "Held!"}])
    return tmp_path


def config(root: Path, **values: Any) -> Path:
    settings = {
        "data_root": str(root),
        "output": str(root / "out"),
        "sources": [{"file": "own.jsonl.gz"}, {"file": "others.jsonl"}],
        "benchmarks": ["bench/*.jsonl"],
        "splits": {"validation": 0.2},
        **values,
    }
    path = root / "run.toml"
    path.write_text("\n".join(f"{key} = {toml(value)}" for key, value in settings.items()), encoding="utf-8")
    return path


def rows(folder: Path, split: str = "train") -> list[Row]:
    return [found for _, found in read_rows(folder / f"{split}.jsonl.gz")]


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_repeats_contradictions_and_benchmark_rows_go_and_are_counted(root: Path) -> None:
    folder = run(config(root))
    sources = report(folder)["sources"]
    assert sources["own"]["dropped"] == {}
    assert sources["others"]["dropped"] == {
        "duplicate": 1,
        "contradiction": 1,
        "in a benchmark: same prompt": 1,
        "unlabelled": 1,
    }
    assert report(folder)["benchmarks"] == {"set": 1}
    assert len(rows(folder)) + len(rows(folder, "validation")) == 61
    assert "duplicate" in (folder / "report.txt").read_text(encoding="utf-8")


def test_rows_keep_fields_that_nobody_asked_for(root: Path) -> None:
    folder = run(config(root))
    assert {found["native"]["own"] for found in rows(folder) + rows(folder, "validation")} >= set(range(60))


def test_twins_are_in_the_same_split(root: Path) -> None:
    folder = run(config(root))
    twins = [{found["native"]["twin"] for found in rows(folder, split)} for split in ("train", "validation")]
    assert all(twins)
    assert not twins[0] & twins[1]


def test_the_same_config_gives_the_same_bytes(root: Path) -> None:
    first = [(run(config(root)) / f"{name}.jsonl.gz").read_bytes() for name in ("train", "validation")]
    second = [(run(config(root)) / f"{name}.jsonl.gz").read_bytes() for name in ("train", "validation")]
    assert first == second


def test_balance_languages_and_limits_of_a_source_are_kept(root: Path) -> None:
    sources = [{"file": "own.jsonl.gz", "max_rows": 30}, {"file": "others.jsonl", "languages": ["de"]}]
    folder = run(config(root, sources=sources, balance=[{"by": ["prompt_label"], "max_rows": 10}]))
    labels = [found["prompt_label"] for found in rows(folder) + rows(folder, "validation")]
    assert sorted(labels) == ["Safe"] * 10 + ["Unsafe"] * 10
    assert report(folder)["sources"]["others"]["dropped"] == {"other language": 4}


def test_an_interrupted_run_goes_on_with_the_sources_it_had_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(root)
    wanted = (run(path) / "train.jsonl.gz").read_bytes()
    asked: list[str] = []
    overlap = Benchmarks.overlap

    def watch(self: Benchmarks, found: Row) -> Any:
        asked.append(found["prompt"])
        return overlap(self, found)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_write_splits", stop)
    with pytest.raises(KeyboardInterrupt):
        run(path)
    monkeypatch.undo()
    counts = next((root / "out" / "parts").glob("*/001-others.json"))
    counts.unlink()  # as if stopped within the second source
    monkeypatch.setattr(Benchmarks, "overlap", watch)
    assert (run(path) / "train.jsonl.gz").read_bytes() == wanted
    assert "ask 100" in asked
    assert "ask 1" not in asked


def test_parts_of_other_settings_are_not_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_write_splits", stop)
    with pytest.raises(KeyboardInterrupt):
        run(config(root))
    monkeypatch.undo()
    write_rows(root / "bench" / "set.jsonl", [{"prompt": "ask 100"}])
    folder = run(config(root))
    assert report(folder)["sources"]["others"]["dropped"]["in a benchmark: same prompt"] == 1
    assert "held" in {found["prompt"] for found in rows(folder) + rows(folder, "validation")}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"sources": [{"file": "none.jsonl"}]}, "none.jsonl"),
        ({"sources": [{"file": "none/*.gz"}]}, "none"),
        ({"splits": {"validation": 0.6, "test": 0.5}}, "splits"),
        ({"splits": {"train": 0.5}}, "train"),
        ({"colour": "red"}, "colour"),
        ({"sources": [{"file": "own.jsonl.gz", "languages": ["xx"]}]}, "no row is left"),
    ],
)
def test_wrong_settings_are_named(root: Path, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(config(root, **bad))


@pytest.mark.parametrize("content", ['{"prompt": 3}\n', '{"prompt": "a", "native": "b"}\n'])
def test_a_bad_row_stops_the_run_or_is_counted(root: Path, content: str) -> None:
    (root / "others.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"others\.jsonl:1"):
        run(config(root))
    folder = run(config(root, bad_rows="drop"))
    assert report(folder)["sources"]["others"]["dropped"] == {"bad row": 1}


def test_unlabelled_rows_stay_if_they_are_to_be_labelled(root: Path) -> None:
    prompts: Sequence[str] = [found["prompt"] for found in rows(run(config(root, unlabelled="keep", splits={})))]
    assert "?" in prompts


def test_the_command_prints_where_it_wrote(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data", "--config", str(config(root))]) == 0
    assert capsys.readouterr().out == f"{root / 'out'}\n"
    assert main(["train", "data", "--config", str(root / "none.toml")]) == 2


def test_rows_of_ten_scripts_and_half_characters_pass_through(root: Path) -> None:
    texts = [
        "如何做面包",
        "パンの作り方",
        "빵 굽는 법",
        "كيف أخبز",
        "रोटी कैसे बनाऊँ",
        "วิธีทำขนมปัง",
        "как испечь",
        "ψωμί",
        "לחם",
        "a\x00b\U0001f35e",
    ]
    lines = [json.dumps({"prompt": text, "prompt_label": "Safe"}) for text in texts]
    lines.append('{"prompt": "half \\ud83d", "prompt_label": "Safe"}')
    (root / "others.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = {row["prompt"] for row in rows(run(config(root, splits={})))}
    assert found >= {*texts, "half ?"}
