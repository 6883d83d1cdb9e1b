"""Votes of judges on rows, kept on disk."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from streamward.data.jsonl import Sample
from streamward.errors import StreamwardError
from streamward.moderation.moderator import BatchItem, Moderator
from streamward.schema import Category, Result, RiskLevel, SideResult


@dataclass(frozen=True, slots=True)
class SideVote:
    """One judge's word on one side."""

    level: RiskLevel
    category: Category | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """One judge's word on one row.

    Attributes:
        prompt: None if the row has no prompt, or the judge failed.
        refusal: None if the judge does not say.
        error: Code of the error if the judge failed.
    """

    prompt: SideVote | None = None
    response: SideVote | None = None
    refusal: bool | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return the vote as plain values."""
        return asdict(self)


def collect(moderator: Moderator, samples: Sequence[Sample], *, path: Path, batch_rows: int, name: str) -> None:
    """Have a judge vote on the rows that it has not judged yet, or on which it failed before.

    Args:
        moderator: The judge.
        samples: All rows.
        path: File of its votes; each batch is added at once.
        batch_rows: Rows judged together.
        name: For the progress bar.
    """
    known = read_votes(path)
    left = [index for index in range(len(samples)) if index not in known or known[index].error is not None]
    path.parent.mkdir(parents=True, exist_ok=True)
    _end_last_line(path)
    with (
        path.open("a", encoding="utf-8") as file,
        tqdm(
            total=len(samples), initial=len(samples) - len(left), desc=name, unit="row", mininterval=2, disable=None
        ) as bar,
    ):
        for start in range(0, len(left), batch_rows):
            indices = left[start : start + batch_rows]
            for index, vote in zip(indices, judge(moderator, [samples[index] for index in indices]), strict=True):
                file.write(json.dumps({"row": index, **vote.as_json()}) + "\n")
            file.flush()
            bar.update(len(indices))


def judge(moderator: Moderator, samples: Sequence[Sample]) -> list[Vote]:
    """Judge rows; one that the guard refuses to read, e.g. because it is too long, does not spoil the others."""
    items = [_item(sample) for sample in samples]
    try:
        return [_vote(result) for result in moderator.moderate_batch(items)]
    except StreamwardError:
        return [_judge_one(moderator, item) for item in items]


def read_votes(path: Path) -> dict[int, Vote]:
    """Return the last vote on each row, by index. A line cut off by an interruption is ignored."""
    if not path.exists():
        return {}
    votes: dict[int, Vote] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        sides = {side: _side(found[side]) for side in ("prompt", "response")}
        votes[found["row"]] = Vote(**sides, refusal=found["refusal"], error=found["error"])
    return votes


def _judge_one(moderator: Moderator, item: BatchItem) -> Vote:
    try:
        return _vote(next(iter(moderator.moderate_batch([item]))))
    except StreamwardError as error:
        return Vote(error=error.code)


def _item(sample: Sample) -> BatchItem:
    turns: list[Mapping[str, str]] = [{"role": turn.role.value, "content": turn.content} for turn in sample.history]
    if not turns:
        return {"prompt": sample.prompt or None, "response": sample.response}
    turns.append({"role": "user", "content": sample.prompt})
    if sample.response is not None:
        turns.append({"role": "assistant", "content": sample.response})
    return {"messages": turns}


def _vote(result: Result) -> Vote:
    if result.decision.error is not None:
        return Vote(error=result.decision.error)
    refusal = None if result.response is None else result.response.refusal
    return Vote(_word(result.prompt), _word(result.response), refusal)


def _word(judgement: SideResult | None) -> SideVote | None:
    return None if judgement is None else SideVote(judgement.risk_level, judgement.category)


def _side(found: Mapping[str, str] | None) -> SideVote | None:
    if found is None:
        return None
    category = found.get("category")
    return SideVote(RiskLevel(found["level"]), None if category is None else Category(category))


def _end_last_line(path: Path) -> None:
    if path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")


def both_sides(votes: Sequence[Vote]) -> Iterator[tuple[str, list[SideVote]]]:
    """Give the words spoken on each side."""
    for side in ("prompt", "response"):
        yield side, [word for vote in votes if (word := getattr(vote, side)) is not None]
