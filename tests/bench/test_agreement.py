"""Labels that other weights change are counted, on a sample that is the same every time."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from streamward.bench.agreement import BFLOAT16, FLOAT32, INT8, INT8_CACHE, AgreementTally, compare, fixed_sample
from streamward.data.jsonl import read_samples
from streamward.moderation.moderator import Moderator
from streamward.schema import RiskLevel

SAFE, CONTROVERSIAL, UNSAFE = RiskLevel.SAFE, RiskLevel.CONTROVERSIAL, RiskLevel.UNSAFE


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


@dataclass
class Found:
    risk_level: RiskLevel


@dataclass
class Answers:
    prompt: Found
    response: Found


class WordGuard:
    """Says unsafe where the text has a word; in pieces, where one piece has it."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.pieces: list[str] = []

    def found(self, *texts: str) -> Found:
        return Found(UNSAFE if any(self.word in text for text in texts) else SAFE)

    def moderate(self, prompt: str, response: str | None = None) -> Answers:
        return Answers(self.found(prompt), self.found(response or ""))

    def stream(self, prompt: str) -> "WordGuard":
        return WordGuard(self.word)

    def __enter__(self) -> "WordGuard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def feed(self, piece: str) -> None:
        self.pieces.append(piece)

    def finish(self) -> Answers:
        return Answers(self.found(), self.found(*self.pieces))


def guards(*, float32: str, bfloat16: str, int8: str) -> dict[str, Moderator]:
    words = {FLOAT32: float32, BFLOAT16: bfloat16, INT8: int8, INT8_CACHE: int8}
    return {weights: cast(Moderator, WordGuard(word)) for weights, word in words.items()}


def test_changed_labels_and_scores_are_counted_for_each_pair(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a bomb", "prompt_label": "Unsafe"},
        {"prompt": "a knife", "prompt_label": "Unsafe"},
        {"prompt": "a flower", "prompt_label": "Safe"},
    ]
    samples = list(read_samples(rows_file(tmp_path, rows)))
    tally = compare(guards(float32="bomb", bfloat16="bomb", int8="knife"), samples)
    assert tally.num_rows == 3
    assert (tally.changed[BFLOAT16, FLOAT32], tally.changed[INT8, FLOAT32], tally.changed[INT8, BFLOAT16]) == (0, 2, 2)
    assert round(tally.f1(FLOAT32), 1) == 66.7
    twice = AgreementTally()
    twice.merge(tally)
    twice.merge(tally)
    assert (twice.num_rows, twice.changed[INT8, FLOAT32], twice.f1(INT8)) == (6, 4, tally.f1(INT8))


def test_a_level_can_change_without_the_flag() -> None:
    tally = AgreementTally()
    levels = {FLOAT32: UNSAFE, BFLOAT16: UNSAFE, INT8: CONTROVERSIAL, INT8_CACHE: SAFE}
    tally.add(levels, label=UNSAFE)
    tally.merge(tally)
    assert (tally.changed[INT8, BFLOAT16], tally.flags_changed[INT8, BFLOAT16]) == (2, 0)
    assert (tally.changed[INT8_CACHE, BFLOAT16], tally.flags_changed[INT8_CACHE, BFLOAT16]) == (2, 2)


def test_a_response_that_pieces_judge_otherwise_is_counted(tmp_path: Path) -> None:
    long_word = "y" * 61  # no piece holds it
    rows = [
        {"prompt": "Hi", "response": f"so {long_word}", "response_label": "Unsafe"},
        {"prompt": "Hi", "response": "nothing", "response_label": "Safe"},
    ]
    samples = list(read_samples(rows_file(tmp_path, rows)))
    tally = compare(guards(float32=long_word, bfloat16=long_word, int8=long_word), samples)
    assert (tally.num_cut, tally.changed_by_cuts) == (2, 1)
    assert tally.f1(INT8) == 100


def test_the_sample_is_fixed_and_leaves_out_long_and_unlabelled_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"text {number}", "prompt_label": "Safe"} for number in range(50)]
    rows += [{"prompt": "x" * 500, "prompt_label": "Safe"}, {"prompt": "no label"}]
    path = rows_file(tmp_path, rows)
    sample = fixed_sample(path, rows=20, max_chars=100)
    assert len(sample) == 20
    assert sample == fixed_sample(path, rows=20, max_chars=100)
    everything = fixed_sample(path, rows=100, max_chars=100)
    assert {each.prompt for each in everything} == {f"text {number}" for number in range(50)}
