"""`streamward train data`: from sources to splits and a report."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from streamward.data.balance import BalanceRule, Facts, balance, gather
from streamward.data.cues import count_cues
from streamward.data.jsonl import Sample, check_row, read_samples
from streamward.data.rows import Row, encode_row, read_rows, replacing
from streamward.data.splits import Groups, assign
from streamward.errors import ConfigError
from streamward.train.cue_audit import cue_table
from streamward.train.data.config import DataConfig
from streamward.train.data.filtering import FilteredSource, filter_sources
from streamward.train.data.report import DataReport
from streamward.train.toml_file import read_config

logger = logging.getLogger(__name__)


class Survey(NamedTuple):
    """All rows of the parts, in order: what balancing needs, and each row's key to its group."""

    facts: list[Facts]
    keys: list[int]
    groups: Groups


def run(config_path: Path) -> Path:
    """Make the splits of a run; goes on where an interrupted run stopped. The same config gives the same files.

    Returns:
        The folder written.

    Raises:
        ConfigError: The settings are wrong, a file is missing, or no row is left.
        InputError: A file cannot be read, or a row is wrong.
    """
    config = read_config(DataConfig, config_path)
    parts_folder = config.output / "parts"
    parts = filter_sources(config, parts_folder)
    report = DataReport([part.tally for part in parts], splits=("train", *config.splits))
    survey = _survey(parts, seed=config.seed)
    kept = balance(survey.facts, (*_source_limits(parts), *config.balance))
    if not any(kept):
        raise ConfigError(f"no row is left:\n{report.table()}")
    splits = [
        assign(survey.groups.root(key), config.splits, seed=config.seed) if stays else None
        for key, stays in zip(survey.keys, kept, strict=True)
    ]
    _write_splits(parts, splits, config=config, report=report)
    report.write(config.output)
    shutil.rmtree(parts_folder)
    logger.info(report.table())
    counts = count_cues(read_samples(config.output / "train.jsonl.gz"))
    with replacing(config.output / "cues.txt") as file:
        file.write(cue_table(counts) + "\n")
    logger.info("surface cues of the split train that predict its labels:\n%s", cue_table(counts))
    return config.output


def _survey(parts: Sequence[FilteredSource], *, seed: int) -> Survey:
    survey = Survey([], [], Groups())
    for part, _, sample in tqdm(_walk(parts), desc="survey", unit="row", mininterval=2, disable=None):
        survey.facts.append(gather(sample, source=part.tally.name, seed=seed))
        survey.keys.append(survey.groups.add(sample))
    return survey


def _source_limits(parts: Sequence[FilteredSource]) -> list[BalanceRule]:
    limits = {part.tally.name: part.source.max_rows for part in parts if part.source.max_rows is not None}
    return [BalanceRule(by=("source",), targets=limits)] if limits else []


def _write_splits(
    parts: Sequence[FilteredSource], splits: Sequence[str | None], *, config: DataConfig, report: DataReport
) -> None:
    """Write all files at once: either all of them are replaced or, after an error, none."""
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(replacing(config.output / f"{name}.jsonl.gz")) for name in report.split_names
        }
        walk = tqdm(_walk(parts), desc="writing", unit="row", total=len(splits), mininterval=2, disable=None)
        for (part, row, sample), split in zip(walk, splits, strict=True):
            report.count(part.tally.name, sample, split)
            if split is not None:
                files[split].write(encode_row(row))


def _walk(parts: Sequence[FilteredSource]) -> Iterator[tuple[FilteredSource, Row, Sample]]:
    for part in parts:
        for number, row in read_rows(part.rows):
            yield part, row, check_row(row, where=f"{part.rows}:{number}", source=part.tally.name)
