"""`streamward train token-labels`: where responses turn harmful."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from streamward.data.jsonl import Sample, parse_row
from streamward.data.rows import Row, read_rows
from streamward.model.checkpoint import load_gen
from streamward.model.decoder import dense_hidden
from streamward.schema import RiskLevel
from streamward.train.continuations import ContinuationGenerator, _Cache
from streamward.train.onset import Search
from streamward.train.stream import train
from streamward.train.token_labels import Labeller, TokenLabelsConfig, label_files, run
from tests.train.tiny import config, guard_tokenizer, row

TEXT = "All is well here. Then comes more text. Now harm begins. And it goes on and on. The end."
HARM = TEXT.index("harm")


def search(text: str, start: int | None) -> Search:
    return Search(text, range(1, len(text) + 1), lambda end: start is not None and end > start)


@pytest.mark.parametrize("start", [0, 1, 5, HARM, len(TEXT) - 1])
@pytest.mark.parametrize("max_scanned_tokens", [0, 3, 1000])
def test_the_first_harmful_token_is_found(start: int, max_scanned_tokens: int) -> None:
    assert search(TEXT, start).first(max_scanned_tokens=max_scanned_tokens) == start


def test_a_text_that_is_harmless_to_its_end_has_no_onset() -> None:
    found = search(TEXT, None)
    assert found.first(max_scanned_tokens=4) is None
    assert found.num_asked == 1
    assert search("", 0).first(max_scanned_tokens=4) is None


def test_halving_asks_about_few_prefixes() -> None:
    found = search(TEXT * 10, len(TEXT) * 5 + HARM)
    assert found.first(max_scanned_tokens=4) == len(TEXT) * 5 + HARM
    assert found.num_asked < 20


def files_config(folder: Path, **changes: Any) -> TokenLabelsConfig:
    return TokenLabelsConfig(
        name="onsets", output_root=folder / "runs", data_root=folder, files=("r.jsonl",), guard="x", **changes
    )


def test_human_marks_are_used_and_others_searched(tmp_path: Path) -> None:
    unsafe = {"prompt": "p", "response": "abcdef", "response_label": "Unsafe"}
    rows = [
        {**unsafe, "spans": [[2, 4]]},
        {**unsafe, "unsafe_start": 1},
        unsafe,
        {**unsafe, "response": "nothing"},
        {**unsafe, "response_label": "Safe"},
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def label(sample: Sample) -> Row:
        return {"unsafe_start": 3 if sample.response == "abcdef" else None, "asked": 2, "full": 8}

    folder = label_files(files_config(tmp_path), label)
    written = [each for _, each in read_rows(folder / "rows" / "r.jsonl")]
    assert [each.get("unsafe_start") for each in written] == [2, 1, 3, None, None]
    counts = json.loads((folder / "token-labels.json").read_text())["files"]["r.jsonl"]
    assert counts == {
        "human": 1, "given": 1, "found": 1, "not_found": 1, "asked": 4, "full_scan": 16, "saved": 0.75,
    }  # fmt: skip


def test_a_search_may_be_compared_with_marks_which_stay(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "x" * 20, "response_label": "Unsafe", "unsafe_start": 2}] * 5
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    places = iter([{"tokens_late": -1}, {"tokens_late": 0}, {"tokens_late": 8}, {"tokens_late": 9}, {}])

    def label(sample: Sample) -> Row:
        return {"unsafe_start": 7, "asked": 2, "full": 8, **next(places)}

    folder = label_files(files_config(tmp_path, compares=True), label)
    assert {each["unsafe_start"] for _, each in read_rows(folder / "rows" / "r.jsonl")} == {2}
    counts = json.loads((folder / "token-labels.json").read_text())["files"]["r.jsonl"]
    assert (counts["given"], counts["asked"], counts["saved"]) == (5, 10, 0.75)
    assert counts["compared"] == {
        "rows": 5, "not_found": 0.2, "earlier": 0.2, "at_the_mark": 0.2, "up_to_8_tokens_later": 0.2, "later": 0.2,
    }  # fmt: skip


def test_some_rows_of_a_file_may_be_searched_alone(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": str(index), "response_label": "Unsafe"} for index in range(20)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked: list[str | None] = []

    def label(sample: Sample) -> Row:
        asked.append(sample.response)
        return {"unsafe_start": 0, "asked": 1, "full": 1}

    folder = label_files(files_config(tmp_path, max_rows=6), label)
    written = [each for _, each in read_rows(folder / "rows" / "r.jsonl")]
    assert len(asked) == 6
    assert sum("unsafe_start" in each for each in written) == 6
    assert len(written) == 20


@pytest.mark.parametrize(("mark", "late"), [(0, 5), (3, 2), (5, 0), (6, -1)])
def test_a_place_is_counted_in_tokens_from_the_mark(mark: int, late: int) -> None:
    class Flags:
        def moderate(self, *, messages: Any) -> Any:
            level = RiskLevel.UNSAFE if len(messages[-1].content) > 5 else RiskLevel.SAFE
            return SimpleNamespace(response=SimpleNamespace(risk_level=level))

    class Continues:
        def generate(self, *_: object, **__: object) -> list[str]:
            return [""]

    guard: Any = Flags()
    labeller = Labeller(files_config(Path()), writer=Continues(), guard=guard, judge=guard, tokenizer=guard_tokenizer())
    row = {"prompt": "p", "response": "abcdefgh", "response_label": "Unsafe", "unsafe_start": mark}
    assert labeller.label(parse_row(row, source="s"))["tokens_late"] == late


def test_an_interrupted_run_asks_for_no_row_twice(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": str(index), "response_label": "Unsafe"} for index in range(6)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked: list[str | None] = []

    def label(sample: Sample) -> Row:
        if sample.response == "3" and len(asked) == 3:
            asked.append("cut")
            raise KeyboardInterrupt
        asked.append(sample.response)
        return {"unsafe_start": 0, "asked": 1, "full": 1}

    with pytest.raises(KeyboardInterrupt):
        label_files(files_config(tmp_path), label)
    (journal,) = (tmp_path / "runs" / "onsets" / "journal").iterdir()
    with journal.open("a") as notes:
        notes.write('{"key": "half a li')
    folder = label_files(files_config(tmp_path), label)
    assert asked == ["0", "1", "2", "cut", "3", "4", "5"]
    assert len(list(read_rows(folder / "rows" / "r.jsonl"))) == 6


def test_continuations_are_as_many_as_asked_and_repeatable(workplace: Path) -> None:
    sample = parse_row({"prompt": "Hi", "response": "There"}, source="s")
    options: dict[str, Any] = {"count": 3, "max_new_tokens": 5, "temperature": 1.0}
    first = ContinuationGenerator.load(str(workplace / "base"), seed=1).generate(sample, "Th", **options)
    assert len(first) == 3
    assert ContinuationGenerator.load(str(workplace / "base"), seed=1).generate(sample, "Th", **options) == first


def test_reading_on_with_the_cache_gives_what_one_pass_gives(workplace: Path) -> None:
    model = load_gen(workplace / "base", dtype=torch.float32)
    writer, cache = ContinuationGenerator(model, guard_tokenizer(), seed=0), _Cache()
    writer._read(torch.tensor([[5, 6, 7]]), cache, start=0)
    cache.fork(2)
    writer._read(torch.tensor([[8], [9]]), cache, start=3)
    after = writer._read(torch.tensor([[1], [2]]), cache, start=4)
    whole = dense_hidden(model.decoder, torch.tensor([[5, 6, 7, 8, 1], [5, 6, 7, 9, 2]]))
    torch.testing.assert_close(after, model.logits(whole[:, -1]), rtol=1e-4, atol=1e-4)


def test_the_stage_runs_from_rows_to_rows(workplace: Path) -> None:
    guard = train(config(workplace, "guard", epochs=4.0))
    rows = [row(index) for index in range(6)]
    (workplace / "few.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    path = workplace / "onsets.toml"
    values = {
        "name": "onsets",
        "output_root": str(workplace / "runs"),
        "data_root": str(workplace),
        "files": ["few.jsonl"],
        "generator": str(workplace / "base"),
        "guard": str(guard),
        "tokenizer": str(guard),
        "num_continuations": 2,
        "max_new_tokens": 2,
        "threshold": 0.5,
    }
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    folder = run(path)
    counts = json.loads((folder / "token-labels.json").read_text())["files"]["few.jsonl"]
    assert counts["found"] + counts["not_found"] == 3
    assert counts["found"] >= 1
