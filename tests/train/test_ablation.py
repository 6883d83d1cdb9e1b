"""`streamward train ablate`: variants of one run in one table."""

import json
from pathlib import Path

import pytest

from streamward.errors import ConfigError
from streamward.train.ablation import run
from tests.train.tiny import config, row

VARIANTS = """
[[variants]]
name = "all"

[[variants]]
name = "deeper"
set = {num_layers = 2}
"""


def ablation(workplace: Path, variants: str) -> Path:
    recipe = config(workplace, "recipe", epochs=3.0)
    rows = [row(index) for index in range(300, 340)]
    (workplace / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    path = workplace / "ablation.toml"
    head = f'name = "layers"\noutput_root = "{workplace}/runs"\ntest_root = "{workplace}"\ntests = ["test.jsonl"]\n'
    path.write_text(f'{head}{variants}\n[recipe]\nconfig = "{recipe}"\n')
    return path


def test_every_variant_stands_in_the_table(workplace: Path) -> None:
    path = run(ablation(workplace, VARIANTS))
    lines = path.read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| all", "| deeper"]
    results = json.loads((path.parent / "ablation.json").read_text())["results"]
    assert results["all"]["tests"]["test.jsonl"]["prompt"]["strict_f1"] > 0.8
    assert results["all"]["tests"]["test.jsonl"]["prompt"]["loose_auroc"] > 0.9
    assert "AUROC" in lines[0]
    assert json.loads((path.parent / "deeper" / "config.json").read_text())["num_hidden_layers"] == 2


def test_a_variant_with_an_unknown_setting_is_refused(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        run(ablation(workplace, '[[variants]]\nname = "a"\nset = {nonsense = 1}\n'))
