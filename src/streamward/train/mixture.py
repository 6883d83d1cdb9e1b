"""Draws rows from the sources of a run and splits off validation by group."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from streamward.data.held_out import fold_of, is_held_out
from streamward.data.jsonl import Sample, read_samples
from streamward.data.labels import read_labels
from streamward.errors import ConfigError
from streamward.schema import RiskLevel
from streamward.train.config import RunConfig, SourceConfig, Use, data_path
from streamward.train.variants import vary


class WeightedSample(NamedTuple):
    """A row and what it counts in the loss."""

    sample: Sample
    weight: float
    file: str


class Split(NamedTuple):
    """Rows to learn from and rows held out. No group is in both."""

    train: list[WeightedSample]
    validation: list[WeightedSample]


def draw(config: RunConfig) -> Split:
    """Read, sample and split every source of a run; the same seed draws the same rows.

    Raises:
        ConfigError: A source has no row left.
        InputError: A file cannot be read.
    """
    split = Split([], [])
    seen: set[tuple[str, str, str | None]] = set()  # a file may be a source twice
    for source in config.sources:
        samples = _draw_source(config, source)
        if not samples:
            raise ConfigError(f"source {source.file}: no row is left of the asked languages and use")
        prompts, rng = _prompts(config, source), random.Random(f"{config.seed}/{source.file}/prompts")
        variants = random.Random(f"{config.seed}/{source.file}/variants")
        for sample in samples:  # on the side of the split where its row is, wherever its text is moved
            row = WeightedSample(_move(sample, source.use), source.weight, source.file)
            key = (row.file, row.sample.prompt, row.sample.response)
            if not is_held_out(sample, fraction=config.validation_fraction):
                if source.learn and config.fold in (None, fold_of(sample)):
                    learnt = _asked_otherwise(row.sample, prompts, rng)
                    if variants.random() < config.variant_fraction:
                        learnt = vary(learnt, variants)
                    split.train.append(row._replace(sample=learnt))
            elif key not in seen:
                seen.add(key)
                split.validation.append(row)
    return split


def held_out_rows(path: Path, *, held_out_fraction: float | None) -> list[Sample]:
    """Read the rows of a file that runs with this `validation_fraction` hold back; all of them if it is None.

    Raises:
        InputError: The file cannot be read.
    """
    rows = read_samples(path)
    return [row for row in rows if held_out_fraction is None or is_held_out(row, fraction=held_out_fraction)]


def _draw_source(config: RunConfig, source: SourceConfig) -> list[Sample]:
    labels = None if source.labels is None else read_labels(data_path(source.labels, config.data_root))
    samples = [
        sample
        for sample in read_samples(config.source_path(source), labels)
        if not source.languages or sample.language in source.languages
        if _has_use(sample, source.use)
    ]
    if source.max_rows is not None and source.max_rows < len(samples):
        samples = random.Random(f"{config.seed}/{source.file}").sample(samples, source.max_rows)
    return samples


def _prompts(config: RunConfig, source: SourceConfig) -> list[str]:
    """Read the prompts that take the place of a source's own, none of a row that is held back."""
    if source.prompts is None:
        return []
    rows = read_samples(data_path(source.prompts, config.data_root))
    found = [row.prompt for row in rows if row.prompt and not is_held_out(row, fraction=config.validation_fraction)]
    if not found:
        raise ConfigError(f"source {source.file}: {source.prompts} has no prompt to take")
    return found


def _asked_otherwise(sample: Sample, prompts: Sequence[str], rng: random.Random) -> Sample:
    if not prompts or sample.response is None or sample.response_label is None:
        return sample
    return dataclasses.replace(sample, history=(), prompt=rng.choice(prompts), prompt_label=None)


def _has_use(sample: Sample, use: Use) -> bool:
    if use == "prompt-as-response":
        return sample.prompt_label is not None
    if use == "response-as-prompt":
        return sample.response is not None and sample.response_label is RiskLevel.SAFE
    if use == "response-alone":
        return sample.response is not None and sample.response_label is not None
    return sample.prompt_label is not None or sample.response_label is not None


def _move(sample: Sample, use: Use) -> Sample:
    if use == "as-is":
        return sample
    alone = dataclasses.replace(sample, history=(), prompt="", prompt_label=None)
    if use == "response-alone":
        return alone
    if use == "prompt-as-response":
        return dataclasses.replace(alone, response=sample.prompt, response_label=sample.prompt_label)
    assert sample.response is not None, "has this use"
    return dataclasses.replace(
        alone, prompt=sample.response, prompt_label=RiskLevel.SAFE, response=None, response_label=None, spans=None
    )
