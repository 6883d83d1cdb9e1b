"""A user's own rows fine-tune an embedded guard, or any checkpoint in the published layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from streamward.bundled.adapter import ADAPTER_FILE
from streamward.bundled.base import prepare_base
from streamward.bundled.embedded import template_file
from streamward.cli.main import main
from streamward.model.checkpoint import save_checkpoint
from streamward.model.config_file import read_config
from tests.train.tiny import CALM, RISKY, byte_tokenizer, config, row, tiny_guard

SHIPPED = Path(__file__).parents[2] / "configs" / "train" / "finetune.toml"


def published_checkpoint(folder: Path) -> Path:
    """A tiny random guard as others publish theirs."""
    save_checkpoint(tiny_guard().to(torch.bfloat16), folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    shutil.copy(template_file(is_gen=False), folder / "chat_template.jinja")
    return folder


def test_two_hundred_rows_fine_tune_a_published_checkpoint(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [row(index) for index in range(200)]
    (workplace / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    init = published_checkpoint(workplace / "published")
    keys = ("base", "num_layers", "inner_size")
    path = config(workplace, "mine", without=keys, init=str(init), epochs=3.0)
    assert main(["train", "stream", "--config", str(path)]) == 0
    folder = workplace / "runs" / "mine"
    assert read_config(folder).keys() >= read_config(init).keys()
    assert not (folder / ADAPTER_FILE).exists()
    assert main(["moderate", "--guard", str(folder), f"700 {RISKY}"]) == 3
    assert main(["moderate", "--guard", str(folder), f"701 {CALM}"]) == 0


def test_a_side_without_enough_rows_keeps_its_lines(workplace: Path) -> None:
    first = config(workplace, "first", epochs=1.0)
    assert main(["train", "stream", "--config", str(first)]) == 0
    rows = [{"prompt": row(index)["prompt"], "prompt_label": row(index)["prompt_label"]} for index in range(30)]
    (workplace / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    keys = ("base", "num_layers", "inner_size", "lora")
    init = str(workplace / "runs" / "first")
    second = config(workplace, "second", without=keys, init=init, epochs=0.5, min_calibration_rows=100)
    assert main(["train", "stream", "--config", str(second)]) == 0
    old, new = (read_config(workplace / "runs" / name)["streamward"] for name in ("first", "second"))
    assert new == old


@pytest.mark.slow
def test_the_documented_command_fine_tunes_the_embedded_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_base()
    rows = [row(index) for index in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "stream", "--config", str(SHIPPED)]) == 0
    assert (tmp_path / "runs" / "my-guard" / ADAPTER_FILE).exists()
    assert main(["moderate", "--guard", "runs/my-guard", "How do I bake bread?"]) == 0
