"""The examples of a rule: in the policy, or in JSONL files beside it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from streamward.errors import ConfigError, InputError
from streamward.reasons import reason_of
from streamward.rules.rule import MAX_EXAMPLES, Rule, RuleExample, RuleScope
from streamward.settings import describe
from streamward.text_files import read_lines

_START_KEYS = ("start", "rule_start")


@dataclass(frozen=True, slots=True)
class LabelledExamples:
    """Examples from which a rule is taught.

    Attributes:
        violations: Texts that break the rule.
        allowed: Texts that look alike and do not.
    """

    violations: tuple[RuleExample, ...]
    allowed: tuple[RuleExample, ...]


def load_examples(rule: Rule, folder: Path) -> LabelledExamples:
    """Return the examples of a rule.

    A row of a JSONL file has `prompt` or `response` or both, and may have `start` (or `rule_start`). Where it also has
    `violates`, `rule` or `split`, only rows of this rule, of the wanted label, and not of the split `test` are taken,
    so that one file can hold examples, counter-examples and a test set.

    Args:
        rule: Rule of a policy.
        folder: Where paths begin: the folder of the policy.

    Raises:
        ConfigError: A file is missing or a row in it is wrong; an example is on a side that the rule is not about; or
            there are too many.
    """
    violations = tuple(_read(rule, rule.examples, folder, violates=True))
    allowed = tuple(_read(rule, rule.counter_examples, folder, violates=False))
    for name, rows in (("examples", violations), ("counter_examples", allowed)):
        if len(rows) > MAX_EXAMPLES:
            raise ConfigError(f"the rule {rule.id!r} has {len(rows)} {name}; at most {MAX_EXAMPLES} are used")
        wrong = [row.side for row in rows if row.side not in rule.sides]
        if wrong:
            raise ConfigError(f"the rule {rule.id!r} has {name} on the {wrong[0]}, which it does not apply to")
    return LabelledExamples(violations, allowed)


def rule_digest(rule: Rule, folder: Path) -> str:
    """Return what tells whether a rule has changed since it was taught: a SHA-256 over its examples and sides.

    Raises:
        ConfigError: As `load_examples`.
    """
    rows = load_examples(rule, folder)
    facts = [
        rule.id,
        sorted(rule.sides),
        [row.model_dump(mode="json") for row in rows.violations],
        [row.model_dump(mode="json") for row in rows.allowed],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(
    rule: Rule, given: tuple[RuleExample | str, ...] | str, folder: Path, *, violates: bool
) -> Iterator[RuleExample]:
    if isinstance(given, str):
        yield from _read_file(rule, folder / given, violates=violates)
        return
    is_response = RuleScope.RESPONSE in rule.applies_to or RuleScope.TOOL_ARGUMENTS in rule.applies_to
    for each in given:
        if isinstance(each, RuleExample):
            yield each
        elif not each.strip():
            raise ConfigError(f"the rule {rule.id!r} has a blank example")
        else:
            yield RuleExample(response=each) if is_response else RuleExample(prompt=each)


def _read_file(rule: Rule, path: Path, *, violates: bool) -> Iterator[RuleExample]:
    try:
        with path.open("rb") as file:
            for line in read_lines(file):
                where = f"{path.name}, line {line.number}"
                if line.text is None:
                    raise ConfigError(f"{where}: {line.problem}")
                row = _row(line.text, where)
                is_other = row.get("rule", rule.id) != rule.id or row.get("split") == "test"
                if not is_other and row.get("violates", violates) is violates:
                    if row.get("draft"):
                        raise ConfigError(f"{where} is a draft: read it, correct it, then remove its key `draft`")
                    yield _example(row, where)
    except OSError as error:
        raise ConfigError(f"the examples of the rule {rule.id!r} cannot be read: {reason_of(error)}") from error
    except InputError as error:
        raise ConfigError(f"{path.name}: {error}") from error


def _row(text: str, where: str) -> dict[str, Any]:  # Any: JSON values
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is not a JSON object")
    return row


def _example(row: dict[str, Any], where: str) -> RuleExample:  # Any: JSON values
    start = next((row[key] for key in _START_KEYS if row.get(key) is not None), None)
    try:
        return RuleExample(prompt=row.get("prompt"), response=row.get("response"), start=start)
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error, RuleExample)}") from error
