"""Counts the labels of rows that other weights of a guard change: `python -m streamward.bench.agreement DIR`."""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from streamward.data.jsonl import Sample, read_samples
from streamward.engine.config import EngineConfig
from streamward.loading import load
from streamward.moderation.moderator import Moderator
from streamward.schema import RiskLevel, SideResult

FLOAT32, BFLOAT16, INT8, INT8_CACHE = "float32", "bfloat16", "int8", "int8 with cache int8"
WEIGHTS = (FLOAT32, BFLOAT16, INT8, INT8_CACHE)
PAIRS = ((BFLOAT16, FLOAT32), (INT8, FLOAT32), (INT8, BFLOAT16), (INT8_CACHE, BFLOAT16))
_CUTS = (1, 3, 10, 60)  # sizes of the pieces, in characters
_MAX_CUT_RESPONSES = 6  # most responses of each set


@dataclass(slots=True)
class AgreementTally:
    """Differences between the verdicts of guards with different weights on the same rows.

    Attributes:
        num_rows: Rows judged.
        changed: Rows whose level of three differs, for each pair of weights.
        flags_changed: Rows of which only one of the pair says Safe: what F1 is counted of.
        counts: Counts for each set of weights: rows found among the unsafe ones, wrongly flagged, and missed.
        num_cut: Responses fed in random pieces too.
        changed_by_cuts: Number of those that got another level with weights of 8 bits.
    """

    num_rows: int = 0
    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    flags_changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    num_cut: int = 0
    changed_by_cuts: int = 0

    def add(self, levels: dict[str, RiskLevel], *, label: RiskLevel) -> None:
        """Count one row."""
        self.num_rows += 1
        for pair in PAIRS:
            one, other = (levels[weights] for weights in pair)
            self.changed[pair] += one is not other
            self.flags_changed[pair] += _is_flagged(one) is not _is_flagged(other)
        for weights, level in levels.items():
            is_flagged, is_unsafe = _is_flagged(level), _is_flagged(label)
            self.counts[weights, "found"] += is_flagged and is_unsafe
            self.counts[weights, "false"] += is_flagged and not is_unsafe
            self.counts[weights, "missed"] += is_unsafe and not is_flagged

    def f1(self, weights: str) -> float:
        """Return the F1 of flagging, in percent; 0 where nothing is unsafe or flagged."""
        found, wrong = self.counts[weights, "found"], self.counts[weights, "false"] + self.counts[weights, "missed"]
        return 200 * found / max(1, 2 * found + wrong)

    def merge(self, other: "AgreementTally") -> None:
        """Add another set's."""
        self.num_rows += other.num_rows
        self.changed += other.changed
        self.flags_changed += other.flags_changed
        self.counts += other.counts
        self.num_cut += other.num_cut
        self.changed_by_cuts += other.changed_by_cuts


def guards(name: str) -> dict[str, Moderator]:
    """Load one guard with each kind of weights."""
    return {
        FLOAT32: load(name, dtype=torch.float32),
        BFLOAT16: load(name, engine=EngineConfig(weights="full")),
        INT8: load(name, engine=EngineConfig(weights="int8")),
        INT8_CACHE: load(name, engine=EngineConfig(weights="int8", kv_cache="int8")),
    }


def fixed_sample(path: Path, *, rows: int, max_chars: int) -> list[Sample]:
    """Return labelled rows of a file, the same ones every time."""
    samples = [sample for sample in read_samples(path) if sample.prompt and _label(sample) is not None]
    samples = [sample for sample in samples if len(sample.prompt) + len(sample.response or "") <= max_chars]
    random.Random(0).shuffle(samples)
    return samples[:rows]


def compare(moderators: dict[str, Moderator], samples: Sequence[Sample]) -> AgreementTally:
    """Judge rows with each guard."""
    tally = AgreementTally()
    rng = random.Random(0)
    for sample in samples:
        label = _label(sample)
        assert label is not None
        levels = {weights: _level(moderator, sample) for weights, moderator in moderators.items()}
        tally.add(levels, label=label)
        if _is_response(sample) and tally.num_cut < _MAX_CUT_RESPONSES:
            tally.num_cut += 1
            tally.changed_by_cuts += _level_in_pieces(moderators[INT8], sample, rng) is not levels[INT8]
    return tally


def _is_flagged(level: RiskLevel) -> bool:
    return level is not RiskLevel.SAFE


def _is_response(sample: Sample) -> bool:
    return bool(sample.response) and sample.response_label is not None


def _label(sample: Sample) -> RiskLevel | None:
    return sample.response_label if _is_response(sample) else sample.prompt_label


def _level(moderator: Moderator, sample: Sample) -> RiskLevel:
    if not _is_response(sample):
        return _found(moderator.moderate(prompt=sample.prompt).prompt)
    return _found(moderator.moderate(prompt=sample.prompt, response=sample.response).response)


def _level_in_pieces(moderator: Moderator, sample: Sample, rng: random.Random) -> RiskLevel:
    text = sample.response or ""
    with moderator.stream(prompt=sample.prompt) as stream:
        while text:
            size = rng.choice(_CUTS)
            stream.feed(text[:size])
            text = text[size:]
        return _found(stream.finish().response)


def _found(judgement: SideResult | None) -> RiskLevel:
    assert judgement is not None
    return judgement.risk_level


def main() -> None:
    """Compare a guard's weights on every set of a folder."""
    parser = argparse.ArgumentParser(prog="python -m streamward.bench.agreement", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="labelled rows, NAME.jsonl or NAME.jsonl.gz")
    parser.add_argument("--guard", default="stream-135m", help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=40, help="of each set, a fixed sample; default: %(default)s")
    parser.add_argument("--max-chars", type=int, default=3000, help="longer rows are left out; default: %(default)s")
    arguments = parser.parse_args()
    total, moderators = AgreementTally(), guards(arguments.guard)
    for path in sorted([*arguments.folder.glob("*.jsonl"), *arguments.folder.glob("*.jsonl.gz")]):
        tally = compare(moderators, fixed_sample(path, rows=arguments.rows, max_chars=arguments.max_chars))
        total.merge(tally)
        print(_line(path.name.partition(".")[0], tally), flush=True)  # a run takes minutes
    print(_line("all", total))
    print(f"int8 in random pieces: {total.changed_by_cuts} of {total.num_cut} responses got another label")


def _line(name: str, tally: AgreementTally) -> str:
    changed = ", ".join(
        f"{one} from {other} {tally.changed[one, other]} (flagged or not {tally.flags_changed[one, other]})"
        for one, other in PAIRS
    )
    scores = ", ".join(f"{weights} {tally.f1(weights):.2f}" for weights in WEIGHTS)
    return f"{name}: {tally.num_rows} rows; levels changed: {changed}; F1: {scores}"


if __name__ == "__main__":
    main()
