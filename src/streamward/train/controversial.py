"""`streamward train controversial`: labels what a loose and a strict guard judge differently as Controversial.

After Figure 3 of Qwen3Guard (arXiv 2510.14276): two halves; on each a guard with the safe rows weighed up (loose) and
one with them weighed down (strict), the ratio chosen on held-out rows; each pair labels the other half.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from streamward.data.jsonl import Sample
from streamward.schema import RiskLevel
from streamward.train.cross_labels import FOLDS, CrossLabelConfig, Fold, held_out, relabel
from streamward.train.recipe import run_once, score_rows
from streamward.train.scoring import Score

REPORT_FILE = "controversial.json"
_EVEN = 0.5
_LOOSE, _STRICT = "loose", "strict"


class ControversialConfig(CrossLabelConfig):
    """`streamward train controversial`."""

    ratios: tuple[float, ...] = Field(default=(2.0, 4.0, 8.0), min_length=1)
    """Weights of safe rows against the others to try, mildest first; a strict guard takes the inverse."""
    max_loose_false_positive_rate: float = Field(default=0.02, gt=0, lt=1)
    """The loose guard is loose enough if it flags no more of the held-out safe rows."""
    max_strict_miss_rate: float = Field(default=0.02, gt=0, lt=1)
    """The strict guard is strict enough if it misses no more of the held-out unsafe rows."""


def run(config_path: Path) -> Path:
    """Train the guards and label the rows; returns the folder. Finished parts are not done again.

    Raises:
        ConfigError: The settings or those of the recipe are wrong.
        InputError: A data file cannot be read.
    """
    config = ControversialConfig.read(config_path)
    folder = config.output_root / config.name
    base = config.recipe.read({"name": config.name})
    validation = held_out(base)
    report: dict[str, Any] = {"config": json.loads(config.model_dump_json()), "guards": {}}  # Any: JSON values
    guards: dict[Fold, Mapping[str, Path]] = {}
    for fold in FOLDS:
        pair = {}
        for mode in (_LOOSE, _STRICT):
            pair[mode], tried = _calibrated(config, fold, mode, validation)
            report["guards"][f"{fold}-{mode}"] = tried
        guards[fold] = pair
    report["changed"] = relabel(
        base, guards, conflict, folder=folder / "rows", settings=config.model_dump_json(), only_drawn=config.only_drawn
    )
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return folder


def conflict(scores: Mapping[str, Score]) -> RiskLevel:
    """Return Controversial where the strict guard flags what the loose one lets pass, else the label there was."""
    if scores[_STRICT].risky >= _EVEN > scores[_LOOSE].risky:
        return RiskLevel.CONTROVERSIAL
    return scores[_LOOSE].level


def _calibrated(
    config: ControversialConfig, fold: Fold, mode: str, validation: Sequence[Sample]
) -> tuple[Path, list[dict[str, float]]]:
    """Train with one ratio after the other until the guard is loose or strict enough; the last counts if none is."""
    tried: list[dict[str, float]] = []
    for ratio in config.ratios:
        changes = {
            "name": f"{fold}-{mode}-{ratio:g}",
            "fold": fold,
            "safe_weight": ratio if mode == _LOOSE else 1 / ratio,
            "output_root": str(config.output_root / config.name / "guards"),
        }
        run_config = config.recipe.read(changes)
        folder = run_once(run_config)
        scores = score_rows(folder, validation, max_tokens=run_config.max_tokens)
        flagged = _share(scores, is_safe=True)
        missed = 1 - _share(scores, is_safe=False)
        tried.append({"ratio": ratio, "safe_flagged": round(flagged, 4), "unsafe_missed": round(missed, 4)})
        if mode == _LOOSE and flagged <= config.max_loose_false_positive_rate:
            break
        if mode == _STRICT and missed <= config.max_strict_miss_rate:
            break
    return folder, tried


def _share(scores: Sequence[Score], *, is_safe: bool) -> float:
    """Return how many of the safe, or of the unsafe, sides are flagged."""
    wanted = RiskLevel.SAFE if is_safe else RiskLevel.UNSAFE
    flagged = [score.risky >= _EVEN for score in scores if score.level is wanted]
    return sum(flagged) / len(flagged) if flagged else float(not is_safe)
