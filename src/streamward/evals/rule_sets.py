"""Sets that measure rules of an operator's own: our layout (`datasets/rules`) and DynaBench's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamward.data.rows import read_rows
from streamward.errors import InputError
from streamward.rules.rule import Rule
from streamward.schema import Message, Role, Side
from streamward.settings import read_toml

RULES_FILE = "rules.toml"
DYNABENCH_RULE = "policy"
"""Id of the one rule that stands for a whole policy of DynaBench: its label is not given rule by rule."""
_RULE_KEYS = frozenset(Rule.model_fields)
_TURN = re.compile(r"^\s*(User|Agent|Assistant)\s*:\s*", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One labelled text.

    Attributes:
        id: Id of the row.
        rule: The rule it is labelled by.
        messages: Conversation; its last turn is judged.
        violates: Whether that turn breaks the rule.
        start: First character that does; None if that is not known, or nothing does.
        language: ISO 639-1; empty if not known.
        is_hard: Whether it is allowed in the words of a violation.
    """

    id: str
    rule: Rule
    messages: tuple[Message, ...]
    violates: bool
    start: int | None = None
    language: str = ""
    is_hard: bool = False

    @property
    def side(self) -> Side:
        """Side of the judged turn."""
        return Side.RESPONSE if self.messages[-1].role is Role.ASSISTANT else Side.PROMPT


def load_rule_set(path: Path, *, split: str = "test") -> list[RuleRow]:
    """Read a set.

    Args:
        path: A folder with `rules.toml` and one JSONL file per rule, or one file of DynaBench's rows (JSONL, perhaps
            gzipped: `policy`, `transcript`, `label` PASS or FAIL).
        split: Rows of another split are left out, where rows name one.

    Raises:
        InputError: There is no such set, or a row in it is wrong; names it.
    """
    if path.is_dir():
        rows = list(_own_rows(path, split))
    elif path.is_file():
        rows = [_dynabench_row(row, where=f"{path.name}:{number}") for number, row in read_rows(path)]
    else:
        raise InputError(f"{str(path)!r} is not a folder with {RULES_FILE} and no file")
    if not rows:
        raise InputError(f"{str(path)!r} contains no rows of the split {split!r}")
    return rows


def _own_rows(folder: Path, split: str) -> Iterator[RuleRow]:
    try:
        tables = read_toml(folder / RULES_FILE, what="the rules")["rules"]
    except (FileNotFoundError, KeyError) as error:
        raise InputError(f"{str(folder)!r} has no {RULES_FILE} with [[rules]]") from error
    for table in tables:
        known = {name: value for name, value in table.items() if name in _RULE_KEYS}
        rule = Rule.parse(known, source=str(folder / RULES_FILE))
        path = folder / f"{rule.id}.jsonl"
        for number, row in read_rows(path):
            if row.get("split", split) == split:
                yield _own_row(row, rule, where=f"{path.name}:{number}")


def _own_row(row: Mapping[str, Any], rule: Rule, *, where: str) -> RuleRow:  # Any: JSON values
    prompt, response, violates = row.get("prompt"), row.get("response"), row.get("violates")
    if not isinstance(violates, bool) or not all(text is None or isinstance(text, str) for text in (prompt, response)):
        raise InputError(f"{where}: prompt and response must be texts or null, violates true or false")
    turns = [] if prompt is None else [Message(Role.USER, prompt)]
    turns += [] if response is None else [Message(Role.ASSISTANT, response)]
    if not turns:
        raise InputError(f"{where}: there is neither a prompt nor a response")
    return RuleRow(
        str(row.get("id", where)),
        rule,
        tuple(turns),
        violates,
        row.get("rule_start"),
        str(row.get("lang", "")),
        bool(row.get("hard_negative")),
    )


def _dynabench_row(row: Mapping[str, Any], *, where: str) -> RuleRow:  # Any: JSON values
    policy, transcript, label = (row.get(name) for name in ("policy", "transcript", "label"))
    if not isinstance(policy, str) or not isinstance(transcript, str) or label not in ("PASS", "FAIL"):
        raise InputError(f"{where}: DynaBench's rows have policy, transcript and label (PASS or FAIL)")
    turns = tuple(_turns(transcript))
    if not turns or turns[-1].role is not Role.ASSISTANT:
        raise InputError(f"{where}: the transcript has no turn of the agent at its end")
    rule = Rule.parse({"id": DYNABENCH_RULE, "text": policy[:8000], "applies_to": ["response"]}, source=where)
    return RuleRow(str(row.get("id", where)), rule, turns, label == "FAIL")


def _turns(transcript: str) -> Iterator[Message]:
    found = list(_TURN.finditer(transcript))
    for index, match in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(transcript)
        role = Role.USER if match[1].lower() == "user" else Role.ASSISTANT
        yield Message(role, transcript[match.end() : end].strip())
