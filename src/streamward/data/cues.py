"""Surface cues: how well a first word, a list marker, a length or a language predicts a row's label by itself.

A guard trained on rows in which harm begins at "And" nine times in ten learns "And". Every value of every cue is
counted against the labels; the lower end of Wilson's interval (1927) of the share of harmful rows says how sure it is.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from streamward.data.jsonl import Sample
from streamward.schema import RiskLevel

_Z = 1.96  # two-sided 95 %
_SENTENCE_END = re.compile(r"(?<=[.!?\u2026\u3002\uff01\uff1f\u0964\u061f\n])\s*")
_LIST_MARKER = re.compile(r"\s*(?:[-*\u2022#>]+|\(?\d+[.):]|[A-Za-z][.)])(?=\s)|\s*```")
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_CHARS_OF_UNSPACED_WORD = 2
_LENGTHS = (40, 80, 160, 320, 640, 1280)  # characters; upper bounds of the buckets


class CueKind(StrEnum):
    """The part of a text that is looked at."""

    FIRST_WORD = "first word"
    TEMPLATE = "first three words"
    WORD_PAIR = "pair of words"
    LIST_MARKER = "list marker"
    LENGTH = "length"
    LANGUAGE = "language"
    SOURCE = "source"


SURFACE = frozenset({CueKind.FIRST_WORD, CueKind.LIST_MARKER, CueKind.LENGTH, CueKind.LANGUAGE})
"""Cues that say nothing about what a text means; the others are counted, but may predict for good reasons."""


class CueTarget(StrEnum):
    """The labels that a cue may predict."""

    PROMPT = "prompt is unsafe"
    RESPONSE = "response is unsafe"
    ONSET = "harm begins in this sentence"


class Cue(NamedTuple):
    """One value of one cue."""

    target: CueTarget
    kind: CueKind
    value: str


@dataclass(frozen=True, slots=True)
class CueCount:
    """Counts of rows with a cue, and of the harmful ones among them.

    Attributes:
        num_rows: Rows, or sentences where the target is the onset, that carry the cue.
        num_unsafe: Those of them that are harmful.
    """

    cue: Cue
    num_rows: int
    num_unsafe: int

    @property
    def precision(self) -> float:
        """Share of harmful ones, in [0, 1]."""
        return self.num_unsafe / self.num_rows

    @property
    def lower_bound(self) -> float:
        """Lower end of the 95 % interval of `precision`."""
        n, p = self.num_rows, self.precision
        margin = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, (p + _Z**2 / (2 * n) - margin) / (1 + _Z**2 / n))


def count_cues(samples: Iterable[Sample], *, min_rows: int = 20) -> list[CueCount]:
    """Count every cue of labelled rows, the surest first.

    Args:
        samples: Rows; Controversial ones are left aside, as they stand on neither side.
        min_rows: Values in fewer rows are left out.
    """
    seen: Counter[Cue] = Counter()
    unsafe: Counter[Cue] = Counter()
    for sample in samples:
        for is_unsafe, cues in _observations(sample):
            seen.update(cues)
            if is_unsafe:
                unsafe.update(cues)
    counts = [CueCount(cue, number, unsafe[cue]) for cue, number in seen.items() if number >= min_rows]
    return sorted(counts, key=lambda each: (-each.lower_bound, each.cue))


def excessive(counts: Iterable[CueCount], *, max_label_precision: float, max_onset_precision: float) -> list[CueCount]:
    """Return the surface cues that predict more surely than is allowed, by the lower bound of their precision."""
    limits = {
        CueTarget.PROMPT: max_label_precision,
        CueTarget.RESPONSE: max_label_precision,
        CueTarget.ONSET: max_onset_precision,
    }
    return [each for each in counts if each.cue.kind in SURFACE and each.lower_bound > limits[each.cue.target]]


def _observations(sample: Sample) -> Iterator[tuple[bool, set[Cue]]]:
    if sample.prompt and sample.prompt_label in (RiskLevel.SAFE, RiskLevel.UNSAFE):
        yield sample.prompt_label is RiskLevel.UNSAFE, _cues(CueTarget.PROMPT, sample.prompt, sample)
    if sample.response and sample.response_label in (RiskLevel.SAFE, RiskLevel.UNSAFE):
        yield sample.response_label is RiskLevel.UNSAFE, _cues(CueTarget.RESPONSE, sample.response, sample)
        yield from _sentence_observations(sample)


def _sentence_observations(sample: Sample) -> Iterator[tuple[bool, set[Cue]]]:
    """Yield the sentences behind the first: those of safe responses, and of marked ones up to where harm begins."""
    assert sample.response is not None
    onset = sample.unsafe_start
    if onset is None and sample.spans:
        onset = sample.spans[0].start
    if sample.response_label is RiskLevel.UNSAFE and onset is None:
        return
    for start, text in list(sentences(sample.response))[1:]:
        is_onset = onset is not None and start <= onset < start + len(text)
        if onset is None or start <= onset:
            yield is_onset, {Cue(CueTarget.ONSET, kind, value) for kind, value in _openings(text)}


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield each sentence or line with the index of its first character."""
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if text[start : match.end()].strip():
            yield start, text[start : match.end()]
            start = match.end()
    if text[start:].strip():
        yield start, text[start:]


def _cues(target: CueTarget, text: str, sample: Sample) -> set[Cue]:
    words = _words(text)
    found = [
        *_openings(text),
        (CueKind.LENGTH, _length_bucket(text)),
        (CueKind.LANGUAGE, sample.language or "unknown"),
        (CueKind.SOURCE, sample.source),
        *((CueKind.WORD_PAIR, f"{left} {right}") for left, right in pairwise(words)),
    ]
    return {Cue(target, kind, value) for kind, value in found}


def _openings(text: str) -> Iterator[tuple[CueKind, str]]:
    marker = _LIST_MARKER.match(text)
    if marker is not None:
        yield CueKind.LIST_MARKER, re.sub(r"\d+", "1", marker[0].strip())
        text = text[marker.end() :]
    words = _words(text)
    if words:
        yield CueKind.FIRST_WORD, words[0]
    if len(words) >= 3:
        yield CueKind.TEMPLATE, " ".join(words[:3])


def _words(text: str) -> Sequence[str]:
    words: list[str] = []
    for word in _WORD.findall(text.lower()):
        step = _CHARS_OF_UNSPACED_WORD if _NO_SPACES.search(word) else len(word)
        words += [word[start : start + step] for start in range(0, len(word), step)]
    return words


def _length_bucket(text: str) -> str:
    bound = next((bound for bound in _LENGTHS if len(text) <= bound), None)
    return f"over {_LENGTHS[-1]} characters" if bound is None else f"up to {bound} characters"
