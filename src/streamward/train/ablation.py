"""`streamward train ablate`: runs that differ in a few settings each, measured on the same rows, as one table."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field

from streamward.data.jsonl import Sample
from streamward.evals.metrics import count
from streamward.evals.ranking import auroc, rank
from streamward.loading import find_checkpoint
from streamward.model.config_file import read_config
from streamward.model.guard_config import OperatingPoint, parse_guard_config
from streamward.schema import RiskLevel, Side
from streamward.settings import Settings
from streamward.train.config import TomlSettings
from streamward.train.initialization import is_stream_folder
from streamward.train.mixture import held_out_rows
from streamward.train.recipe import RecipeConfig, run_once, score_rows
from streamward.train.scoring import Score

REPORT_FILE = "ablation.json"
TABLE_FILE = "ablation.md"
_EVEN = OperatingPoint(unsafe=0.5, controversial=0.5)


class VariantConfig(Settings):
    """One run: what it is called, and what differs from the recipe."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    set: dict[str, Any] = Field(default_factory=dict)


class AblationConfig(TomlSettings):
    """`streamward train ablate`."""

    name: str
    output_root: Path = Path("runs")
    recipe: RecipeConfig
    variants: tuple[VariantConfig, ...] = Field(min_length=1)
    test_root: Path
    tests: tuple[str, ...] = Field(min_length=1)
    """Labelled files no variant learns from."""
    held_out_fraction: float | None = Field(
        default=None, gt=0, lt=1, validation_alias=AliasChoices("held_out_fraction", "held_back_fraction")
    )
    """Only their rows that the recipe, with this `validation_fraction`, holds back; all by default."""
    max_test_rows: int | None = Field(default=None, gt=0)
    """Only the first rows of each."""


def run(config_path: Path) -> Path:
    """Train and measure every variant; returns the table's path. Finished runs are not repeated.

    Raises:
        ConfigError: The settings, or those of a variant, are wrong.
        InputError: A data file cannot be read.
    """
    config = AblationConfig.read(config_path)
    folder = config.output_root / config.name
    tests = {
        file: held_out_rows(config.test_root / file, held_out_fraction=config.held_out_fraction)[: config.max_test_rows]
        for file in config.tests
    }
    results: dict[str, Any] = {}  # Any: JSON values
    for variant in config.variants:
        changes = {**variant.set, "name": variant.name, "output_root": str(folder)}
        settings = config.recipe.read(changes)
        guard = run_once(settings)
        results[variant.name] = _measured(guard, tests, max_tokens=settings.max_tokens)
    report = {"config": json.loads(config.model_dump_json()), "results": results}
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / TABLE_FILE).write_text(table(results), encoding="utf-8")
    return folder / TABLE_FILE


def table(results: Mapping[str, Any]) -> str:
    """Write figures by variant and file as a Markdown table: F1 and AUROC in both modes, and rows per second."""
    files = list(dict.fromkeys(file for figures in results.values() for file in figures["tests"]))
    header = ["variant", *(f"{file}: F1 strict / loose, AUROC strict / loose" for file in files), "rows/s"]
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |"]
    for name, figures in results.items():
        cells = [_cell(figures["tests"].get(file, {})) for file in files]
        lines.append(f"| {' | '.join([name, *cells, format(figures['rows_per_second'], '.1f')])} |")
    return "\n".join(lines) + "\n"


def _cell(sides: Mapping[str, Mapping[str, float]]) -> str:
    cells = []
    for side, each in sides.items():
        areas = (f"{each[name]:.3f}" if name in each else "-" for name in ("strict_auroc", "loose_auroc"))
        cells.append(f"{side} {each['strict_f1']:.3f} / {each['loose_f1']:.3f}, {' / '.join(areas)}")
    return "; ".join(cells)


def _measured(guard: Path, tests: Mapping[str, Sequence[Sample]], *, max_tokens: int) -> dict[str, Any]:
    folder = find_checkpoint(guard)
    points = parse_guard_config(read_config(folder)).operating_points if is_stream_folder(folder) else {}
    started, figures = time.perf_counter(), {}
    for file, samples in tests.items():
        scores = score_rows(guard, samples, max_tokens=max_tokens)
        figures[file] = {
            side.value: _figures([score for score in scores if score.side is side], points.get(side, _EVEN))
            for side in Side
            if any(score.side is side for score in scores)
        }
    seconds = time.perf_counter() - started
    return {"tests": figures, "rows_per_second": round(sum(map(len, tests.values())) / seconds, 2)}


def _figures(scores: Sequence[Score], point: OperatingPoint) -> dict[str, float]:
    """Compare with both truths: Controversial counts as unsafe in strict mode, as safe in loose mode.

    AUROC, which no threshold changes, is left out where all rows are of one kind.
    """
    is_risky = [score.level is not RiskLevel.SAFE for score in scores]
    is_unsafe = [score.level is RiskLevel.UNSAFE for score in scores]
    strict = count([score.risky >= point.controversial for score in scores], is_risky)
    loose = count([score.unsafe >= point.unsafe for score in scores], is_unsafe)
    areas = {
        "strict_auroc": _area([score.risky for score in scores], is_risky),
        "loose_auroc": _area([score.unsafe for score in scores], is_unsafe),
    }
    return {
        "rows": len(scores),
        "strict_f1": round(strict.f1, 4),
        "loose_f1": round(loose.f1, 4),
        "strict_false_positive_rate": round(strict.false_positive_rate, 4),
        "loose_false_positive_rate": round(loose.false_positive_rate, 4),
        **{name: round(area, 4) for name, area in areas.items() if area is not None},
    }


def _area(values: Sequence[float], is_positive: Sequence[bool]) -> float | None:
    ranked = rank(values, is_positive)
    return None if ranked is None else auroc(*ranked.cumulated())
