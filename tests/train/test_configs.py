"""Every config the documents name can be read."""

from pathlib import Path

import pytest

from streamward.settings import Settings
from streamward.train.ablation import AblationConfig
from streamward.train.calibrate import CalibrateConfig
from streamward.train.config import GenTrainConfig, StreamTrainConfig
from streamward.train.controversial import ControversialConfig
from streamward.train.distill import DistillConfig
from streamward.train.project_labels import ProjectLabelsConfig
from streamward.train.recipe import RecipeConfig
from streamward.train.token_labels import TokenLabelsConfig
from streamward.train.toml_file import read_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "train").glob("*.toml"))
KINDS: dict[str, type[Settings]] = {
    "stream": StreamTrainConfig,
    "finetune": StreamTrainConfig,
    "gen": GenTrainConfig,
    "calibrate": CalibrateConfig,
    "controversial": ControversialConfig,
    "distill": DistillConfig,
    "token": TokenLabelsConfig,
    "ablation": AblationConfig,
    "project": ProjectLabelsConfig,
}
OWN = [path for path in CONFIGS if path.stem.split("-")[0] in KINDS]


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = read_config(KINDS[path.stem.split("-")[0]], path)
    if isinstance(config, ControversialConfig | DistillConfig):
        config.recipe.read()
    if isinstance(config, AblationConfig):
        for variant in config.variants:
            config.recipe.read(variant.set)


def test_a_recipe_with_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = RecipeConfig(config=Path("configs/train/gen-135m.toml"), kind="gen")
    with pytest.raises(ValueError, match="sauce"):
        recipe.read({"sauce": 1})
