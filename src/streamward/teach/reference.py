"""Rules of the package, on many matters, from which a new rule learns what a violation is like; read once per guard."""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamward.bundled.base import cache_folder
from streamward.moderation.stream_guard import StreamGuard
from streamward.rules.features import PooledText
from streamward.rules.prior import CommonDirection, LabelledRows
from streamward.rules.probe import Floats
from streamward.rules.rule import RuleExample
from streamward.teach.arrays import save_arrays
from streamward.teach.hidden_states import pooled_example, read_told
from streamward.teach.ordinary import OrdinaryTraffic

logger = logging.getLogger(__name__)

FILE = Path(__file__).parent / "data" / "reference_rules.jsonl.gz"
_VERSION = 2  # raise it when the content of cached files changes


@dataclass(frozen=True)
class ReferenceRules:
    """The rules, as a guard sees their texts.

    Attributes:
        common: The direction that their violations have in common.
        texts: Index of the rule that each text belongs to, by the text's hash.
    """

    common: CommonDirection
    texts: Mapping[str, int]

    def direction(self, texts: Iterable[str]) -> Floats:
        """Return what a rule with some examples starts from, [F].

        A reference rule that shares a text with it is left out, so that figures about it stay honest.
        """
        known = {self.texts.get(_hash(text)) for text in texts}
        return self.common.without(frozenset(index for index in known if index is not None))


def reference_rules(
    guard: StreamGuard,
    traffic: OrdinaryTraffic,
    *,
    fingerprint: str,
    tell: Callable[[str], None] = lambda text: None,
) -> ReferenceRules:
    """Return the reference rules as a guard sees them, from the cache if they were read before.

    Args:
        guard: Its engine must have nothing else to do.
        traffic: Ordinary traffic as the guard sees it.
        fingerprint: The fingerprint of its weights; what others saw is not taken.
        tell: Told about progress.
    """
    rules, examples, labels = read_reference()
    names = sorted(set(rules))
    indices = [names.index(rule) for rule in rules]
    path = cache_folder() / f"reference-{fingerprint}-{_VERSION}.npz"
    rows = _load(path)
    if rows is None:
        rows = LabelledRows.of(list(_pooled(guard, traffic, examples, labels, tell)), indices)
        arrays = {"x": rows.x, "targets": rows.targets, "weights": rows.weights, "rules": rows.rules}
        save_arrays(path, arrays, what="reference rules")
    hashes = {_hash(example.text): index for example, index in zip(examples, indices, strict=True)}
    return ReferenceRules(CommonDirection(rows), hashes)


def read_reference() -> tuple[list[str], list[RuleExample], list[bool]]:
    """Return the texts of the reference rules: the rule of each, the text, and whether it violates the rule."""
    rules, examples, labels = [], [], []
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            rules.append(str(row["rule"]))
            labels.append(bool(row["violates"]))
            examples.append(RuleExample(prompt=row["prompt"], response=row["response"], start=row["rule_start"]))
    return rules, examples, labels


def _pooled(
    guard: StreamGuard,
    traffic: OrdinaryTraffic,
    examples: Sequence[RuleExample],
    labels: Sequence[bool],
    tell: Callable[[str], None],
) -> Iterable[PooledText]:
    for text, violates in zip(read_told(guard, examples, tell, name="other rules"), labels, strict=True):
        yield pooled_example(text, traffic.standards[text.side], violates=violates)


def _load(path: Path) -> LabelledRows | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return LabelledRows(file["x"], file["targets"], file["weights"], file["rules"])
    except (OSError, ValueError, KeyError, EOFError):
        return None  # not there yet, or broken: it is read again


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
