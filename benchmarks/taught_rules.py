"""Measures taught rules: quality on datasets/rules, by number of examples, and in streams.

Usage: python benchmarks/taught_rules.py OUT_DIR [--guard G] [--counts 10,20,40] [--false-positives R] [--validate]

The hidden states of all texts are read once and kept in OUT_DIR. Rules are taught on the train split, thresholds set
as `streamward teach` sets them, and F1 is measured on the test split, whose topics are others. Ordinary traffic is the
half of the packaged set `everyday` that neither teaching nor thresholds use. With --validate the test split stays
unread: each rule is taught on two of the three topics of the train split and measured on the third. Choose among
variants by that, never by the test split.
"""

import argparse
import json
import pickle
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamward.evals.packaged_sets import packaged_set
from streamward.loading import find_served, load_guard
from streamward.moderation.stream_guard import StreamGuard
from streamward.rules.calibration import RuleCalibration, choose, cross_validate, f1
from streamward.rules.features import PooledText, channel_weights, first_row
from streamward.rules.fit import SIDE_LEVELS, FittedRule, fit
from streamward.rules.probe import CHANNELS, GATE_MIX
from streamward.rules.rule import RuleExample
from streamward.rules.scoring import normalized, pooled
from streamward.schema import Side
from streamward.teach.hidden_states import ReadText, pooled_example, read_texts, taps_of
from streamward.teach.ordinary import OrdinaryTraffic, ordinary_traffic
from streamward.teach.reference import ReferenceRules, reference_rules
from streamward.teach.report import counts_as_learnt

RULES = Path(__file__).parent.parent / "datasets" / "rules"
RUNS = {Side.PROMPT: 1, Side.RESPONSE: 2}


@dataclass(frozen=True)
class Row:
    """A row of datasets/rules, or an ordinary text (rule None)."""

    rule: str | None
    split: str
    language: str
    violates: bool
    topic: str
    text: ReadText


@dataclass(frozen=True)
class Setting:
    """What rules are taught with."""

    traffic: OrdinaryTraffic
    reference: ReferenceRules
    false_positives: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--guard", default="stream-135m")
    parser.add_argument("--counts", default="10,20,40")
    parser.add_argument("--false-positives", type=float, default=0.01)
    parser.add_argument("--validate", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    guard = load_guard(find_served(arguments.guard))
    assert isinstance(guard, StreamGuard) and guard.identity is not None
    traffic = ordinary_traffic(guard, fingerprint=guard.identity.fingerprint)
    reference = reference_rules(guard, traffic, fingerprint=guard.identity.fingerprint)
    setting = Setting(traffic, reference, arguments.false_positives)
    rows = read_rows(guard, arguments.out / f"states-{guard.identity.fingerprint}.pickle")
    splits = ("train", "ordinary") if arguments.validate else ("test", "ordinary")
    judged = [Judged.of(row, traffic) for row in rows if row.split in splits]
    counts = [int(count) for count in arguments.counts.split(",")]
    results = {}
    for count in reversed(counts):
        results[count] = measure(rows, judged, setting, count=count, validates=arguments.validate)
        print(count, {name: value for name, value in results[count].items() if name != "rules"}, flush=True)
    facts = {
        "guard": guard.identity.name,
        "fingerprint": guard.identity.fingerprint,
        "false_positives": arguments.false_positives,
        "split": "topics of the train split" if arguments.validate else "test",
        "by_count": results,
    }
    (arguments.out / "results.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class Judged:
    """A text that is judged, its hidden states normalised once for all rules."""

    row: Row
    inputs: NDArray[np.float16]
    first: int

    @classmethod
    def of(cls, row: Row, traffic: OrdinaryTraffic) -> "Judged":
        states, standard = row.text.states.astype(np.float32), traffic.standards[row.text.side]
        x = normalized([states[:, tap] for tap in range(states.shape[1])], standard.mean, standard.deviation)
        return cls(row, x.astype(np.float16), first_row(row.text.side, len(x)))

    def scores(
        self, fitted: FittedRule, weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what serving computes: pooled scores of both heads at every token that is scored."""
        side = self.row.text.side
        found = pooled((self.inputs.astype(np.float32) @ weights)[:, None], side)[self.first :, 0]
        gate = [channel.is_gate for channel in CHANNELS]
        first = found[:, [not each for each in gate]].sum(axis=1) + np.float32(
            fitted.violation.bias - SIDE_LEVELS[side]
        )
        return first, found[:, gate].sum(axis=1) + np.float32(fitted.gate.bias) + np.float32(GATE_MIX) * first


def read_rows(guard: StreamGuard, path: Path) -> list[Row]:
    """Return all texts with their hidden states, from the file if they were read before."""
    if path.exists():
        with path.open("rb") as file:
            kept: list[Row] = pickle.load(file)
            return kept
    labels, examples = [], []
    for source in sorted(RULES.glob("*.jsonl")):
        for line in source.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            labels.append((row["rule"], row["split"], row["lang"], row["violates"], row["topic"]))
            examples.append(RuleExample(prompt=row["prompt"], response=row["response"], start=row["rule_start"]))
    for part in packaged_set("everyday"):
        for each in part.rows[1::2]:
            labels.append((None, "ordinary", each.language, False, ""))
            is_prompt = part.side is Side.PROMPT
            examples.append(
                RuleExample(prompt=each.text) if is_prompt else RuleExample(prompt=each.prompt, response=each.text)
            )
    started = time.perf_counter()
    taps = taps_of(guard.engine.runner.model_config)
    rows = [Row(*label, text) for label, text in zip(labels, read_texts(guard, taps, examples), strict=True)]
    print(f"read {len(rows)} texts in {time.perf_counter() - started:.0f} s", flush=True)
    with path.open("wb") as file:
        pickle.dump(rows, file)
    return rows


def pooled_text(row: Row, traffic: OrdinaryTraffic) -> PooledText:
    return pooled_example(row.text, traffic.standards[row.text.side], violates=row.violates)


def measure(
    rows: Sequence[Row], judged: Sequence[Judged], setting: Setting, *, count: int, validates: bool
) -> dict[str, Any]:
    """Return the figures of all rules taught from `count` rows each, half of which break the rule."""
    applies = {each["id"]: each["applies_to"] for each in tomllib.loads((RULES / "rules.toml").read_text())["rules"]}
    by_rule: dict[str, dict[str, float]] = {}
    delays: list[int | None] = []
    flagged: set[int] = set()
    ordinary = [each for each in judged if each.row.rule is None]
    for rule in sorted({row.rule for row in rows if row.rule}):
        sides = frozenset(Side(side) for side in applies[rule])
        own = [each for each in ordinary if each.row.text.side in sides]
        lessons = list(lessons_of(rule, rows, judged, count, validates=validates))
        truth, fired, peaks, alarms, learnt, seconds, expected = [], [], [], [], [], [], []
        for train, test in lessons:
            lesson = Lesson.of([pooled_text(row, setting.traffic) for row in train], train, setting, sides)
            found = [lesson.fires(each) for each in test]
            truth += [each.row.violates for each in test]
            fired += [bool(each.any()) for _, each in found]
            peaks += [float(scores[0].max()) for scores, _ in found]
            alarms += [(each, bool(lesson.fires(each)[1].any())) for each in own]
            learnt.append(lesson.is_learnt)
            seconds.append(lesson.seconds)
            expected.append(lesson.calibration.f1)
            delays += [
                int(np.flatnonzero(fires)[0]) + each.first - each.row.text.start if fires.any() else None
                for each, (_, fires) in zip(test, found, strict=True)
                if each.row.violates and each.row.text.start is not None
            ]
        flagged |= {id(each) for each, alarm in alarms if alarm}
        labels, hits, highest = np.array(truth), np.array(fired), np.array(peaks)
        by_rule[rule] = {
            "f1": round(f1(hits, labels), 3),
            "recall": round(float(hits[labels].mean()), 3),
            "hard_negatives": round(float(hits[~labels].mean()), 3),
            "ordinary": round(float(np.mean([alarm for _, alarm in alarms])), 4),
            "auc": round(float((highest[labels][:, None] > highest[~labels]).mean()), 3),
            "cross_validated_f1": round(float(np.mean(expected)), 3),
            "learnt": round(float(np.mean(learnt)), 2),
            "seconds": round(float(np.mean(seconds)), 2),
        }
        print(count, rule, by_rule[rule], flush=True)
    found_delays = [delay for delay in delays if delay is not None]
    means = {name: float(np.mean([each[name] for each in by_rule.values()])) for name in next(iter(by_rule.values()))}
    return {
        **{name: round(value, 4) for name, value in means.items()},
        "any_rule_on_ordinary": round(len(flagged) / len(ordinary), 4),
        "stream_hits": round(len(found_delays) / len(delays), 3),
        "stream_in_time": round(float(np.mean([-1 <= delay <= 12 for delay in found_delays])), 3),
        "stream_early": round(float(np.mean([delay < -1 for delay in found_delays])), 3),
        "rules": by_rule,
    }


def lessons_of(
    rule: str, rows: Sequence[Row], judged: Sequence[Judged], count: int, *, validates: bool
) -> Iterator[tuple[list[Row], list[Judged]]]:
    """Yield what a rule is taught from and measured on: once, or once for each topic of the train split."""
    train = [row for row in rows if row.rule == rule and row.split == "train"]
    test = [each for each in judged if each.row.rule == rule]
    if not validates:
        yield subset(train, count), test
        return
    for topic in sorted({row.topic for row in train}):
        kept = [row for row in train if row.topic != topic]
        yield subset(kept, count), [each for each in test if each.row.topic == topic]


def subset(rows: Sequence[Row], count: int) -> list[Row]:
    """Return so many rows, half of each label, spread over languages and topics."""
    chosen = []
    for label in (True, False):
        own = sorted((row for row in rows if row.violates is label), key=lambda row: row.language)
        places = np.linspace(0, len(own) - 1, min(count // 2, len(own))).round().astype(int)
        chosen += [own[place] for place in sorted(set(places.tolist()))]
    return chosen


@dataclass(frozen=True)
class Lesson:
    """A rule taught as `streamward teach` does it, from hidden states that were read already."""

    fitted: FittedRule
    calibration: RuleCalibration
    weights: NDArray[np.float32]
    is_learnt: bool
    seconds: float

    @classmethod
    def of(cls, texts: Sequence[PooledText], rows: Sequence[Row], setting: Setting, sides: frozenset[Side]) -> "Lesson":
        prior = setting.reference.direction([row.text.example.text for row in rows])
        started = time.perf_counter()
        ordinary, inputs = setting.traffic.gate_rows(sides), setting.traffic.calibration_inputs(sides)
        labels = [text.violates for text in texts]
        fitted = fit(texts, ordinary, prior=prior)
        held_out = cross_validate(texts, ordinary, inputs, prior=prior)
        calibration = choose(
            held_out,
            labels,
            inputs.scores(fitted),
            false_positives=setting.false_positives,
            run=[RUNS[text.side] for text in texts],
        )
        seconds = time.perf_counter() - started
        peaks = np.array([float(pair[0].max()) for pair in held_out.scores])
        recall = float(np.mean([each.any() for each, label in zip(calibration.fires, labels, strict=True) if label]))
        shape = (texts[0].rows.shape[2], texts[0].rows.shape[3])
        weights = channel_weights(fitted.violation.weights, shape, is_gate=False)
        weights = (weights + channel_weights(fitted.gate.weights, shape, is_gate=True)).reshape(len(CHANNELS), -1).T
        is_learnt = counts_as_learnt(peaks, np.array(labels), recall)
        return cls(fitted, calibration, weights, is_learnt, seconds)

    def fires(self, each: Judged) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], NDArray[np.bool_]]:
        """Return the scores at every token that is scored, and at which of them the rule fires."""
        scores = each.scores(self.fitted, self.weights)
        return scores, self.calibration.thresholds.fires(scores, run=RUNS[each.row.text.side])


if __name__ == "__main__":
    main()
