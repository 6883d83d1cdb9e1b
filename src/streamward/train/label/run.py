"""`streamward train label`: from rows and guards to labelled rows and a report of agreement."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from streamward.data.fingerprints import fingerprint
from streamward.data.jsonl import Sample, check_row, source_name
from streamward.data.rows import Row, encode_row, read_rows, replacing
from streamward.errors import InputError
from streamward.loading import load
from streamward.moderation.moderator import Moderator
from streamward.train.label.config import JudgeConfig, LabelConfig
from streamward.train.label.majority import SideLabel, refusal_label, side_label
from streamward.train.label.report import LabelReport
from streamward.train.label.votes import Vote, both_sides, collect, read_votes
from streamward.train.toml_file import read_config

logger = logging.getLogger(__name__)

OpenJudge = Callable[[JudgeConfig], Moderator]
LABEL_BASIS = "judge vote"


class _Rows(NamedTuple):
    rows: list[Row]
    samples: list[Sample]


def run(config_path: Path) -> Path:
    """Label the rows of a run; goes on where an interrupted run stopped, and asks again where a judge failed.

    Returns:
        The file written.

    Raises:
        ConfigError: The settings are wrong, or there is no such guard.
        InputError: The rows cannot be read.
    """
    return label(read_config(LabelConfig, config_path), open_judge=_open)


def label(config: LabelConfig, *, open_judge: OpenJudge) -> Path:
    """Have every judge vote, one after the other, then write the rows with their labels and a report.

    Args:
        config: Settings of the run.
        open_judge: Loads a judge; it is closed before the next one is loaded.
    """
    found = _read(config.input)
    stem = config.output.with_name(source_name(config.output))
    folder = stem.with_name(f"{stem.name}.votes-{_key(found.rows)}")
    for judge in config.judges:
        path = _votes_path(folder, judge)
        known = read_votes(path)
        if len(known) == len(found.samples) and all(vote.error is None for vote in known.values()):
            continue
        with open_judge(judge) as moderator:
            collect(moderator, found.samples, path=path, batch_rows=config.batch_rows, name=judge.name)
        logger.info("%s has voted on %d rows", judge.name, len(found.samples))
    votes = {judge.name: read_votes(_votes_path(folder, judge)) for judge in config.judges}
    report = LabelReport(tuple(votes))
    with replacing(config.output) as file:
        for index, (row, sample) in enumerate(zip(found.rows, found.samples, strict=True)):
            said = {name: known[index] for name, known in votes.items()}
            labelled = _label_row(row, said, config=config, report=report, sample=sample)
            file.write(encode_row(labelled))
    report.write(stem.with_name(f"{stem.name}.report"))
    logger.info(report.text())
    return config.output


def _open(judge: JudgeConfig) -> Moderator:
    return load(judge.guard, policy=judge.policy)


def _read(path: Path) -> _Rows:
    found = _Rows([], [])
    for number, row in read_rows(path):
        sample = check_row(row, where=f"{path}:{number}", source=source_name(path))
        if not sample.prompt and not sample.response:
            raise InputError(f"{path}:{number}: the row has no text to judge")
        found.rows.append(row)
        found.samples.append(sample)
    if not found.rows:
        raise InputError(f"{path} has no rows")
    return found


def _label_row(row: Row, said: dict[str, Vote], *, config: LabelConfig, report: LabelReport, sample: Sample) -> Row:
    votes = list(said.values())
    least = config.min_votes or len(config.judges) // 2 + 1
    labels = {side: side_label(words, min_votes=least, ties=config.ties) for side, words in both_sides(votes)}
    refusal = refusal_label(votes)
    report.count(said, labels, refusal, sample)
    native = {**(row.get("native") or {}), "votes": {name: vote.as_json() for name, vote in said.items()}}
    failed = [name for name, vote in said.items() if vote.error is not None]
    if failed:
        native["failed_judges"] = failed
    given = {key: row.get(key) for key in ("prompt_label", "response_label", "refusal", "categories")}
    new = _choose(given, labels, refusal, is_anew=config.fill == "all")
    if new != given:
        native["label_basis"] = LABEL_BASIS
        native["given_labels"] = given
    return {**row, **new, "native": native}


def _choose(given: Row, labels: dict[str, SideLabel], refusal: bool | None, *, is_anew: bool) -> Row:
    new = dict(given)
    taken: list[SideLabel] = []
    for side, found in labels.items():
        if is_anew or given[f"{side}_label"] is None:
            new[f"{side}_label"] = found.level
            taken.append(found)
    if is_anew or given["refusal"] is None:
        new["refusal"] = refusal
    if taken and (is_anew or not given["categories"]):
        new["categories"] = list(dict.fromkeys(category for found in taken for category in found.categories))
    return new


def _votes_path(folder: Path, judge: JudgeConfig) -> Path:
    """Name the votes after the guard too: another guard of the same name starts afresh."""
    return folder / f"{judge.name}-{fingerprint(judge.model_dump_json()):016x}.jsonl"


def _key(rows: Sequence[Row]) -> str:
    return f"{fingerprint(''.join(_texts(rows))):016x}"


def _texts(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        history = (row.get("native") or {}).get("history")
        yield json.dumps([row.get("prompt"), row.get("response"), history])
