"""Dry run of a policy: recorded texts are judged again under another policy."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

from streamward.errors import InputError
from streamward.moderation.moderator import Moderator
from streamward.schema import Action
from streamward.text_files import Line, read_lines

_BATCH = 64
_STOPPED = (Action.BLOCK, Action.REPLACE)


@dataclass(frozen=True, slots=True)
class Tried:
    """One recorded decision, and what the policy would have decided.

    Attributes:
        id: Id of the record; its line number if it has none.
        before: The action recorded; None if it says none.
        after: The action under the policy.
        category: The kind of harm that caused it.
        rules: Ids of the rules of the policy that the text breaks.
    """

    id: str
    before: Action | None
    after: Action
    category: str | None
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """All of them together.

    Attributes:
        num_rows: Records read.
        num_without_text: Records that hold no text, so that nothing could be judged.
        changes: How often which action became which.
        categories: How often which kind of harm was stopped.
        rules: How often which rule of the policy fired, whatever came of it.
        newly_stopped: Ids of what would be stopped and was not.
        newly_passed: Ids of what was stopped and would not be.
        thresholds: By side, those in force where the guard names no kind of harm.
    """

    num_rows: int
    num_without_text: int
    changes: Mapping[tuple[str, str], int]
    categories: Mapping[str, int]
    rules: Mapping[str, int]
    newly_stopped: Sequence[str]
    newly_passed: Sequence[str]
    thresholds: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class _Record:
    id: str
    before: Action | None
    item: dict[str, Any]  # Any: what `Moderator.moderate_batch` takes


def read_records(file: IO[bytes]) -> Iterator[_Record]:
    """Yield the records of an export, or of JSON lines with prompt, response or messages.

    Raises:
        InputError: A line is not a JSON object, or its action is unknown. Says which, not what it holds.
    """
    for line in read_lines(file):
        values = _values(line)
        item = {"prompt": values.get("prompt_text"), "response": values.get("response_text")}
        if all(text is None for text in item.values()):
            item = {name: values.get(name) for name in ("prompt", "response", "messages")}
        action = values.get("action")
        try:
            before = None if action is None else Action(action)
        except ValueError as error:
            raise InputError(f"line {line.number} has an unknown action") from error
        given = {name: value for name, value in item.items() if value is not None and not _is_blank(value)}
        yield _Record(str(values.get("id", line.number)), before, given)


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _values(line: Line) -> dict[str, Any]:  # Any: JSON values
    if line.text is None:
        raise InputError(f"line {line.number}: {line.problem}")
    try:
        values = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {line.number} is not JSON") from error
    if not isinstance(values, dict):
        raise InputError(f"line {line.number} is not a JSON object")
    return values


def try_policy(moderator: Moderator, records: Iterable[_Record]) -> Summary:
    """Judge records again and compare.

    Args:
        moderator: A guard under the policy to be tried.
        records: From `read_records`.

    Raises:
        InputError: A record is of the wrong kind.
    """
    found: list[Tried] = []
    thresholds: dict[str, Mapping[str, float]] = {}
    num_rows = 0
    pending = iter(records)
    while batch := list(islice(pending, _BATCH)):
        num_rows += len(batch)
        judged = [record for record in batch if record.item]
        results = moderator.moderate_batch([record.item for record in judged])
        found += [
            Tried(
                record.id,
                record.before,
                result.decision.action,
                result.decision.category,
                tuple(rule.id for rule in result.decision.rules),
            )
            for record, result in zip(judged, results, strict=True)
        ]
        for result in results:
            for side, judgement in (("prompt", result.prompt), ("response", result.response)):
                if judgement is not None and judgement.category is None:
                    thresholds.setdefault(side, {level.value: value for level, value in judgement.thresholds.items()})
    return _summary(found, num_rows, thresholds)


def _summary(found: Sequence[Tried], num_rows: int, thresholds: Mapping[str, Mapping[str, float]]) -> Summary:
    compared = [tried for tried in found if tried.before is not None]
    return Summary(
        num_rows=num_rows,
        num_without_text=num_rows - len(found),
        changes=dict(
            Counter((tried.before.value if tried.before else "unknown", tried.after.value) for tried in found)
        ),
        categories=dict(
            Counter(
                tried.category or ("rules" if tried.rules else "none") for tried in found if tried.after in _STOPPED
            )
        ),
        rules=dict(Counter(rule for tried in found for rule in tried.rules)),
        newly_stopped=[each.id for each in compared if each.after in _STOPPED and each.before not in _STOPPED],
        newly_passed=[each.id for each in compared if each.after not in _STOPPED and each.before in _STOPPED],
        thresholds=thresholds,
    )
