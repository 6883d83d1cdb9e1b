"""Measures taught rules: quality on the test split of datasets/rules, by number of examples, and in streams.

Usage: python benchmarks/taught_rules.py OUT_DIR [--guard G] [--counts 10,20,40] [--false-positives R]

The hidden states of all texts are read once and kept in OUT_DIR. Rules are taught on the train split, thresholds set
as `streamward teach` sets them, and F1 is measured on the test split, whose topics are others. Ordinary traffic is the
half of the packaged set `everyday` that neither teaching nor thresholds use.
"""

import argparse
import json
import pickle
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamward.evals.packaged_sets import packaged_set
from streamward.loading import find_served, load_guard
from streamward.moderation.stream_guard import StreamGuard
from streamward.rules.calibration import Thresholds2D, choose, cross_validate, f1, ordinary_scores
from streamward.rules.features import PooledText, first_row, pool
from streamward.rules.fit import FittedRule, fit
from streamward.rules.rule import RuleExample
from streamward.schema import Side
from streamward.teach.hidden_states import ReadText, read_texts, taps_of
from streamward.teach.ordinary import OrdinaryTraffic, ordinary_traffic

RULES = Path(__file__).parent.parent / "datasets" / "rules"
RUNS = {Side.PROMPT: 1, Side.RESPONSE: 2}


@dataclass(frozen=True)
class Row:
    """A row of datasets/rules, or an ordinary text (rule None)."""

    rule: str | None
    split: str
    language: str
    violates: bool
    text: ReadText


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--guard", default="stream-135m")
    parser.add_argument("--counts", default="10,20,40")
    parser.add_argument("--false-positives", type=float, default=0.01)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    guard = load_guard(find_served(arguments.guard))
    assert isinstance(guard, StreamGuard) and guard.identity is not None
    traffic = ordinary_traffic(guard, fingerprint=guard.identity.fingerprint)
    rows = read_rows(guard, arguments.out / f"states-{guard.identity.fingerprint}.pickle")
    counts = [int(count) for count in arguments.counts.split(",")]
    results = {
        count: measure(rows, traffic, count=count, false_positives=arguments.false_positives) for count in counts
    }
    facts = {"guard": guard.identity.name, "fingerprint": guard.identity.fingerprint, "by_count": results}
    (arguments.out / "results.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
    for count, found in results.items():
        print(count, {name: value for name, value in found.items() if name != "rules"})
    for rule, found in results[counts[-1]]["rules"].items():
        print(f"{rule:26} {found}")


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
            labels.append((row["rule"], row["split"], row["lang"], row["violates"]))
            examples.append(RuleExample(prompt=row["prompt"], response=row["response"], start=row["rule_start"]))
    for part in packaged_set("everyday"):
        for each in part.rows[1::2]:
            labels.append((None, "ordinary", each.language, False))
            is_prompt = part.side is Side.PROMPT
            examples.append(
                RuleExample(prompt=each.text) if is_prompt else RuleExample(prompt=each.prompt, response=each.text)
            )
    started = time.perf_counter()
    taps = taps_of(guard.engine.runner.model_config.num_layers)
    rows = [
        Row(rule, split, language, violates, text)
        for (rule, split, language, violates), text in zip(labels, read_texts(guard, taps, examples), strict=True)
    ]
    print(f"read {len(rows)} texts in {time.perf_counter() - started:.0f} s", flush=True)
    with path.open("wb") as file:
        pickle.dump(rows, file)
    return rows


def pooled_text(row: Row, traffic: OrdinaryTraffic) -> PooledText:
    rows = pool(row.text.states, traffic.standards[row.text.side]).astype(np.float16)
    start = row.text.start if row.violates else None
    return PooledText(row.text.side, rows, row.violates, start, first_row(row.text.side, len(rows)))


def measure(rows: Sequence[Row], traffic: OrdinaryTraffic, *, count: int, false_positives: float) -> dict[str, Any]:
    """Return the figures of all rules taught from `count` rows each, half of which break the rule."""
    applies = {each["id"]: each["applies_to"] for each in tomllib.loads((RULES / "rules.toml").read_text())["rules"]}
    by_rule, delays, any_fired = {}, [], {}
    for rule in sorted({row.rule for row in rows if row.rule}):
        sides = frozenset(Side(side) for side in applies[rule])
        own = [row for row in rows if row.rule == rule]
        train = [pooled_text(row, traffic) for row in subset([row for row in own if row.split == "train"], count)]
        test = [pooled_text(row, traffic) for row in own if row.split == "test"]
        fitted, thresholds, seconds = taught(train, traffic, sides, false_positives)
        truth = np.array([text.violates for text in test])
        fires = [thresholds.fires(fitted.score(text), run=RUNS[text.side]) for text in test]
        fired = np.array([each.any() for each in fires])
        peaks = np.array([float(fitted.score(text)[0].max()) for text in test])
        ordinary = {
            index: bool(thresholds.fires(fitted.score(pooled_text(row, traffic)), run=RUNS[row.text.side]).any())
            for index, row in enumerate(rows)
            if row.rule is None and row.text.side in sides
        }
        any_fired = {index: any_fired.get(index, False) or hit for index, hit in ordinary.items()} | {
            index: hit for index, hit in any_fired.items() if index not in ordinary
        }
        delays += [
            int(np.flatnonzero(found)[0]) + text.first - text.start if found.any() else None
            for text, found in zip(test, fires, strict=True)
            if text.violates and text.start is not None
        ]
        by_rule[rule] = {
            "f1": round(f1(fired, truth), 3),
            "recall": round(float(fired[truth].mean()), 3),
            "hard_negatives": round(float(fired[~truth].mean()), 3),
            "ordinary": round(float(np.mean(list(ordinary.values()))), 4),
            "auc": round(float((peaks[truth][:, None] > peaks[~truth]).mean()), 3),
            "cross_validated_f1": round(thresholds.f1, 3),
            "seconds": round(seconds, 2),
        }
    found = [delay for delay in delays if delay is not None]
    return {
        **{
            name: round(float(np.mean([each[name] for each in by_rule.values()])), 4)
            for name in next(iter(by_rule.values()))
        },
        "any_rule_on_ordinary": round(float(np.mean(list(any_fired.values()))), 4),
        "stream_hits": round(len(found) / len(delays), 3),
        "stream_in_time": round(float(np.mean([-1 <= delay <= 12 for delay in found])), 3),
        "stream_early": round(float(np.mean([delay < -1 for delay in found])), 3),
        "rules": by_rule,
    }


def subset(rows: Sequence[Row], count: int) -> list[Row]:
    """Return so many rows, half of each label, spread over languages and topics."""
    chosen = []
    for label in (True, False):
        own = sorted((row for row in rows if row.violates is label), key=lambda row: row.language)
        places = np.linspace(0, len(own) - 1, min(count // 2, len(own))).round().astype(int)
        chosen += [own[place] for place in sorted(set(places.tolist()))]
    return chosen


def taught(
    train: Sequence[PooledText], traffic: OrdinaryTraffic, sides: frozenset[Side], false_positives: float
) -> tuple[FittedRule, Thresholds2D, float]:
    """Teach as `streamward teach` does, from hidden states that were read already."""
    started = time.perf_counter()
    ordinary = traffic.gate_rows(sides)
    fitted = fit(train, ordinary)
    thresholds = choose(
        cross_validate(train, ordinary),
        [text.violates for text in train],
        ordinary_scores(fitted, traffic.for_calibration, sides),
        false_positives=false_positives,
        run=[RUNS[text.side] for text in train],
    )
    return fitted, thresholds, time.perf_counter() - started


if __name__ == "__main__":
    main()
