"""`streamward train distill`: a teacher that has learnt from one half refines the labels of the other half."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from streamward.schema import RiskLevel
from streamward.train.cross_labels import FOLDS, CrossLabelConfig, Fold, relabel
from streamward.train.recipe import run_once
from streamward.train.scoring import Score

REPORT_FILE = "distill.json"
_TEACHER = "teacher"


class DistillConfig(CrossLabelConfig):
    """`streamward train distill`."""

    min_confidence: float = Field(default=0.9, gt=0.5, le=1)
    """Probability from which the teacher's word replaces a label."""


def run(config_path: Path) -> Path:
    """Train the teachers and label the rows; returns the folder. Finished parts are not done again.

    Raises:
        ConfigError: The settings or those of the recipe are wrong.
        InputError: A data file cannot be read.
    """
    config = DistillConfig.read(config_path)
    folder = config.output_root / config.name
    guards: dict[Fold, Mapping[str, Path]] = {}
    for fold in FOLDS:
        changes = {"name": f"{fold}-{_TEACHER}", "fold": fold, "output_root": str(folder / "guards")}
        guards[fold] = {_TEACHER: run_once(config.recipe.read(changes))}
    base = config.recipe.read({"name": config.name})
    judge = partial(refine, min_confidence=config.min_confidence)
    report: dict[str, Any] = {  # Any: JSON values
        "config": json.loads(config.model_dump_json()),
        "changed": relabel(
            base, guards, judge, folder=folder / "rows", settings=config.model_dump_json(), only_drawn=config.only_drawn
        ),
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return folder


def refine(scores: Mapping[str, Score], *, min_confidence: float) -> RiskLevel:
    """Return the level the teacher is sure of, else the label there was."""
    score = scores[_TEACHER]
    shares = {
        RiskLevel.SAFE: 1 - score.risky,
        RiskLevel.UNSAFE: score.unsafe,
        RiskLevel.CONTROVERSIAL: score.risky - score.unsafe,
    }
    level = max(shares, key=lambda each: shares[each])
    return level if shares[level] >= min_confidence else score.level
