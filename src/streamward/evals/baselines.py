"""Baselines: a keyword list, and logistic regression over TF-IDF n-grams."""

import hashlib
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from streamward.data.jsonl import read_samples
from streamward.errors import ConfigError, InputError
from streamward.evals.guards import labelled
from streamward.evals.predictions import LabelledRow, Prediction
from streamward.policy import Policy
from streamward.schema import Category, RiskLevel

_BATCH_ROWS = 512
_MAX_TRAIN_ROWS = 40_000  # a minute on one core; more changes little
_THRESHOLD = 0.5


@cache
def _keywords() -> tuple[tuple[Category, re.Pattern[str]], ...]:
    lines = files("streamward.evals").joinpath("keywords.txt").read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            name, _, words = line.partition("|")
            choices = "|".join(re.escape(word.strip()) for word in words.split(","))
            found.append((Category(name.strip()), re.compile(rf"\b(?:{choices})\b", re.IGNORECASE)))
    return tuple(found)


class KeywordGuard:
    """Unsafe if a word of a short list occurs. It has no probabilities."""

    name = "keyword list"
    batch_rows = _BATCH_ROWS

    def __init__(self, *, policy: Policy) -> None:
        """Read the list."""
        self._policy = policy

    def describe(self) -> Mapping[str, Any]:  # Any: JSON values
        """Return the hash of the list."""
        digest = hashlib.sha256("".join(pattern.pattern for _, pattern in _keywords()).encode()).hexdigest()
        policy = self._policy.model_dump(mode="json")
        return {"name": self.name, "kind": "keyword", "policy": policy, "settings": {"list_sha256": digest}}

    def judge(self, rows: Sequence[LabelledRow], *, keeps_tokens: bool) -> list[Prediction]:
        """Search each text."""
        return [self._judge_row(row) for row in rows]

    def close(self) -> None:
        """Nothing is held."""

    def _judge_row(self, row: LabelledRow) -> Prediction:
        start = time.perf_counter()
        category = next((category for category, pattern in _keywords() if pattern.search(row.text)), None)
        level = RiskLevel.SAFE if category is None else RiskLevel.UNSAFE
        elapsed_ms = (time.perf_counter() - start) * 1e3
        return labelled(row, level, policy=self._policy, category=category, latency_ms=elapsed_ms, cost_ms=elapsed_ms)


class TfidfGuard:
    """TF-IDF over words and characters with logistic regression, trained when it is made."""

    name = "TF-IDF + logistic regression"
    batch_rows = _BATCH_ROWS

    def __init__(self, sources: Sequence[Path], *, policy: Policy, held_out: Set[str] = frozenset()) -> None:
        """Train on labelled JSON lines: Unsafe against Safe, prompts and responses alike.

        Args:
            sources: Files, or folders of `.jsonl` and `.jsonl.gz`.
            policy: Policy of the run.
            held_out: Texts that will be judged: rows that hold one are left out.

        Raises:
            InputError: There is nothing to train on.
            ConfigError: scikit-learn is not installed.
        """
        rows = sorted({row for row in _training_rows(sources) if row[0] not in held_out})
        if len({label for _, label in rows}) < 2:
            raise InputError("the baseline needs rows labelled Safe and rows labelled Unsafe to train on")
        random.Random(0).shuffle(rows)
        self._rows = rows[:_MAX_TRAIN_ROWS]
        self._policy = policy
        self._model = _fit([text for text, _ in self._rows], [label for _, label in self._rows])

    def describe(self) -> Mapping[str, Any]:  # Any: JSON values
        """Return the hash and number of the training rows."""
        digest = hashlib.sha256(repr(self._rows).encode()).hexdigest()
        settings = {"train_rows": len(self._rows), "train_sha256": digest, "line": _THRESHOLD}
        policy = self._policy.model_dump(mode="json")
        return {"name": self.name, "kind": "tfidf", "policy": policy, "settings": settings}

    def judge(self, rows: Sequence[LabelledRow], *, keeps_tokens: bool) -> list[Prediction]:
        """Score all texts together."""
        start = time.perf_counter()
        scores = self._model.predict_proba([row.text for row in rows])[:, 1].tolist()
        elapsed_ms = (time.perf_counter() - start) * 1e3
        return [
            labelled(
                row,
                RiskLevel.UNSAFE if score >= _THRESHOLD else RiskLevel.SAFE,
                policy=self._policy,
                probabilities={
                    RiskLevel.SAFE: 1 - score,
                    RiskLevel.CONTROVERSIAL: 0.0,
                    RiskLevel.UNSAFE: score,
                },
                latency_ms=elapsed_ms,
                cost_ms=elapsed_ms / len(rows),
            )
            for row, score in zip(rows, scores, strict=True)
        ]

    def close(self) -> None:
        """Nothing is held."""


def _training_rows(sources: Sequence[Path]) -> Iterator[tuple[str, bool]]:
    for source in sources:
        paths = sorted([*source.glob("*.jsonl"), *source.glob("*.jsonl.gz")]) if source.is_dir() else [source]
        for path in paths:
            for sample in read_samples(path):
                sides = ((sample.prompt, sample.prompt_label), (sample.response, sample.response_label))
                for text, label in sides:
                    if text and label in (RiskLevel.SAFE, RiskLevel.UNSAFE):
                        yield text, label is RiskLevel.UNSAFE


def _fit(texts: Sequence[str], labels: Sequence[bool]) -> Any:  # Any: scikit-learn has no types
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union
    except ModuleNotFoundError as error:
        raise ConfigError("this baseline needs scikit-learn; run: pip install 'streamward[eval]'") from error
    least = 2 if len(texts) > 1000 else 1
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=least, sublinear_tf=True, max_features=200_000)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=least, max_features=200_000)
    classifier = LogisticRegression(C=4.0, class_weight="balanced", max_iter=300)
    return make_pipeline(make_union(words, letters), classifier).fit(texts, labels)
