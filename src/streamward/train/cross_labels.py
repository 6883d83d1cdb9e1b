"""Labels for one half of the rows from guards that have learnt from the other half only."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from streamward.data.held_out import fold_of
from streamward.data.jsonl import Sample, check_row
from streamward.data.rows import Row, read_rows, write_rows
from streamward.schema import RiskLevel, Side
from streamward.train.config import RunConfig, TomlSettings
from streamward.train.mixture import draw
from streamward.train.recipe import RecipeConfig, score_rows
from streamward.train.scoring import Score

Fold = Literal["A", "B"]
FOLDS: tuple[Fold, Fold] = ("A", "B")
Judge = Callable[[Mapping[str, Score]], RiskLevel]
"""From the scores of one side of a row, by guard, to its label; the scores hold the label it had."""
_LABEL = {Side.PROMPT: "prompt_label", Side.RESPONSE: "response_label"}
SETTINGS_FILE = "settings.json"
_CHUNK_ROWS = 2000


class CrossLabelConfig(TomlSettings):
    """Settings of a stage that labels each half of the rows by guards that learnt from the other half."""

    name: str
    output_root: Path = Path("runs")
    """The labelled files go to `NAME/rows` below it, under their own names; the guards beside them."""
    recipe: RecipeConfig
    """The guards' run, repeated on each half. For distillation a larger base than the pupil's serves best."""
    only_drawn: bool = False
    """If true, only the rows that the recipe draws are labelled: enough for runs with its sources and seed."""


def other_fold(fold: Fold) -> Fold:
    """Return the half whose guards label this one."""
    return "B" if fold == "A" else "A"


def relabel(
    config: RunConfig,
    guards: Mapping[Fold, Mapping[str, Path]],
    judge: Judge,
    *,
    folder: Path,
    settings: str,
    only_drawn: bool = False,
) -> dict[str, dict[str, int]]:
    """Write every file of a run's sources with new labels; a file these settings have written is kept.

    Args:
        config: The run whose sources are labelled.
        guards: Guards by name, by the half they have learnt from.
        judge: Decides about one side.
        folder: Where the files go, under their own names.
        settings: Settings of the stage, as text; kept beside the files.
        only_drawn: Leave alone what the run does not draw.

    Returns:
        For each file, how many sides went from one label to another.
    """
    marker = folder / SETTINGS_FILE
    is_same = marker.exists() and marker.read_text(encoding="utf-8") == settings
    drawn = {(row.file, row.sample.id) for rows in draw(config) for row in rows} if only_drawn else None
    changes: dict[str, dict[str, int]] = {}
    for file in dict.fromkeys(source.file for source in config.sources):
        source = next(source for source in config.sources if source.file == file)
        path = folder / file
        if not (is_same and path.exists()):
            rows = [row for _, row in read_rows(config.source_path(source))]
            starts = tqdm(range(0, len(rows), _CHUNK_ROWS), desc=file, unit="part")
            parts = (rows[start : start + _CHUNK_ROWS] for start in starts)
            labelled = (_label(part, guards, judge, config=config, file=file, drawn=drawn) for part in parts)
            write_rows(path, chain.from_iterable(labelled))
        changes[file] = _changes(path)
    marker.write_text(settings, encoding="utf-8")
    return changes


def _changes(path: Path) -> dict[str, int]:
    changed: Counter[str] = Counter()
    for _, row in read_rows(path):
        for side, key in _LABEL.items():
            before = (row.get("native") or {}).get(f"{key}_before")
            if before is not None:
                changed[f"{side.value}: {before} to {row[key]}"] += 1
    return dict(sorted(changed.items()))


def held_out(config: RunConfig) -> list[Sample]:
    """Return the rows of a run that no guard of either half learns from."""
    return [row.sample for row in draw(config).validation]


def _label(
    rows: Sequence[Row],
    guards: Mapping[Fold, Mapping[str, Path]],
    judge: Judge,
    *,
    config: RunConfig,
    file: str,
    drawn: Collection[tuple[str, str]] | None,
) -> Iterator[Row]:
    samples = [check_row(row, where=f"{file}: a row", source=file) for row in rows]
    labels: dict[tuple[int, Side], RiskLevel] = {}
    for fold in FOLDS:
        own = [
            index
            for index, sample in enumerate(samples)
            if fold_of(sample) == fold and (drawn is None or (file, sample.id) in drawn)
        ]
        found: dict[tuple[int, Side], dict[str, Score]] = {}
        for name, guard in guards[other_fold(fold)].items():
            for score in score_rows(guard, [samples[index] for index in own], max_tokens=config.max_tokens):
                found.setdefault((own[score.example], score.side), {})[name] = score
        labels |= {key: judge(scores) for key, scores in found.items()}
    for index, row in enumerate(rows):
        new, native = dict(row), dict(row.get("native") or {})
        for side, key in _LABEL.items():
            label = labels.get((index, side))
            if label is not None and label.value != row[key]:
                new[key], native[f"{key}_before"] = label.value, row[key]
        yield {**new, "native": native} if native else new
