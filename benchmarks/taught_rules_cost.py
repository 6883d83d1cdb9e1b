"""Measures what taught rules cost: the same steps with and without them, one after the other.

Usage: python benchmarks/taught_rules_cost.py [--guard G] [--rules 10] [--rounds 60] [--cpu-time]

For 1 stream and 1 token, 1 stream and 16 tokens, and 32 streams of 4 tokens, behind 128 tokens of context: the time of
an engine step, and with rules also of the trackers that pool the scores of each stream. The rules have random weights,
which cost the same as taught ones. Ratios are medians over pairs of steps of one round, so that a busy machine shifts
both. With --cpu-time the engine has one thread and its processor time is measured, which a busy machine disturbs less.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.loading import find_served, load_guard
from streamward.moderation.stream_guard import StreamGuard
from streamward.rules.probe import CHANNELS, ProbeBank, RuleProbe
from streamward.rules.scoring import ProbeScorer, RuleTracker
from streamward.schema import Side
from streamward.teach.hidden_states import taps_of

CASES = ((1, 1), (1, 16), (32, 4))
CONTEXT = 128


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", default="stream-135m")
    parser.add_argument("--rules", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    clock = time.thread_time if arguments.cpu_time else time.perf_counter
    limits = EngineConfig(threads=1) if arguments.cpu_time else None
    guard = load_guard(find_served(arguments.guard, engine=limits), engine=limits)
    assert isinstance(guard, StreamGuard)
    bank = random_bank(guard, arguments.rules)
    print(f"{arguments.guard}, {arguments.rules} rules, {arguments.rounds} rounds")
    print("| streams x tokens | without, ms | with, ms | ratio (median) | quartiles |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for num_streams, num_tokens in CASES:
        without, with_rules = measure(guard.engine, bank, num_streams, num_tokens, arguments.rounds, clock)
        low, middle, high = np.percentile(with_rules / without, [25, 50, 75])
        print(
            f"| {num_streams} x {num_tokens} | {np.median(without) * 1e3:.2f} | {np.median(with_rules) * 1e3:.2f}"
            f" | {middle:.3f} | {low:.3f} to {high:.3f} |",
            flush=True,
        )


def random_bank(guard: StreamGuard, num_rules: int) -> ProbeBank:
    config = guard.engine.runner.model_config
    taps, rng = taps_of(config), np.random.default_rng(0)
    shape = (len(taps), config.hidden_size)
    rules = tuple(
        RuleProbe(
            f"rule-{index}",
            "d",
            frozenset(Side),
            rng.normal(size=(len(CHANNELS), *shape)).astype(np.float32),
            (0.0, 0.0),
            {side: (0.0, 0.0) for side in Side},
            (1.0, 1.0),
        )
        for index in range(num_rules)
    )
    means, ones = (
        {side: value for side in Side} for value in (np.zeros(shape, np.float32), np.ones(shape, np.float32))
    )
    return ProbeBank("random", "0" * 16, taps, means, ones, rules, "random")


def measure(
    engine: Engine, bank: ProbeBank, num_streams: int, num_tokens: int, rounds: int, clock: Callable[[], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds of a step without rules and with them, [rounds] each."""
    rng = np.random.default_rng(1)
    streams = [engine.open() for _ in range(num_streams)]
    trackers = {stream: RuleTracker(bank, Side.RESPONSE) for stream in streams}
    scorer = ProbeScorer(bank)  # one for all rounds, as a service keeps it
    try:
        for stream in streams:
            engine.extend(stream, rng.integers(100, 5000, CONTEXT).tolist(), head=Side.RESPONSE)
        while engine.num_queued_tokens:
            engine.step()
        pairs = [step_pair(engine, scorer, trackers, num_tokens, rng, clock) for _ in range(rounds + 5)][5:]
    finally:
        for stream in streams:
            engine.close(stream)
    return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])


def step_pair(
    engine: Engine,
    scorer: ProbeScorer,
    trackers: dict[int, RuleTracker],
    num_tokens: int,
    rng: np.random.Generator,
    clock: Callable[[], float],
) -> tuple[float, float]:
    """Return the seconds of two steps over the same tokens, in random order: without rules and with them."""
    seconds = [0.0, 0.0]
    ids = rng.integers(100, 5000, num_tokens).tolist()
    for has_rules in rng.permutation(2).tolist():
        if has_rules:
            engine.add_probe(scorer)
        for stream in trackers:
            engine.truncate(stream, CONTEXT)
            engine.extend(stream, ids, head=Side.RESPONSE)
        started = clock()
        while engine.num_queued_tokens:
            for output in engine.step():
                if has_rules:
                    trackers[output.stream_id].extend(output.probe_scores[scorer.name])
        seconds[has_rules] = clock() - started
        if has_rules:
            engine.remove_probe(scorer.name)
            for tracker in trackers.values():
                tracker.truncate(0)
    return seconds[0], seconds[1]


if __name__ == "__main__":
    main()
