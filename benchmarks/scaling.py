"""What one replica bears, what Ray adds, what a killed replica costs, and how many machines follow from it.

    python benchmarks/scaling.py [--json FILE] [--markdown FILE] [--quick]

Needs the extras ray and serve; docs/how-to/scaling.md says how to read the result.
Takes some minutes on a free machine.
"""

import argparse
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from streamward.bench.serve_report import environment
from streamward.distributed.config import ApplicationArguments, ReplicaSetConfig
from streamward.distributed.remote import RemoteTokenScorer
from streamward.distributed.serving import open_moderator
from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.loading import find_checkpoint, load, load_engine
from streamward.moderation.engine_worker import EngineWorker
from streamward.moderation.moderator import Moderator
from streamward.policy import Policy
from streamward.schema import RiskLevel, Side

GUARD = "stream-135m"
TEXT = (
    "Bread begins with flour, water, salt and a little patience. Mix them in a wide bowl until no dry spots are left, "
    "cover the bowl with a towel and let it rest for half an hour. Then fold the dough over itself four times, turn it "
    "and leave it alone again. After three hours it has grown by half and feels light. "
)
NEVER = Policy.parse({"name": "never", "prompt": {"unsafe": "allow"}, "response": {"unsafe": "allow"}}, source="bench")


WORDS_PER_S = 15.0  # of one answer while it is written
TOKENS_PER_WORD = 1.7  # of the guard, those read again among them: benchmarks/2026-11-24-serve-cpu-2-cores
GATEWAY_MS_PER_WORD = 0.92  # without a guard: 0.11 cores for 8 streams of 15 words a second, same place
STREAM_TOKENS = 512  # in the cache of one stream
USED = 0.6  # of what a core can do when words arrive when they like


@dataclass(frozen=True, slots=True)
class Size:
    """What so many answers at the same time need, by the figures of this run; `ray_cores` only with replicas on Ray."""

    streams: int
    guard_cores: float
    service_cores: float
    ray_cores: float
    cache_gb: float


@dataclass(frozen=True, slots=True)
class Step:
    """One core judging `k` new tokens of each of so many streams behind a context."""

    streams: int
    k: int
    context: int
    ms: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Words of many streams as fast as replicas of one core each judge them.

    Attributes:
        replicas: 0: the guard in this process, on one core.
        cpu_ms: CPU time a word, of this process and of all of Ray's.
    """

    replicas: int
    streams: int
    tokens_per_s: float
    word_p50_ms: float
    word_p99_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """A replica killed with -9 under load.

    Attributes:
        streams: Under way.
        moved: That went on at the other replica.
        slowest_ms: Longest time that a word took which was under way, or fed, when the replica died.
        usual_ms: Median of a word before.
        back_s: Until two replicas answered again.
        wrong: Streams whose levels differ from those judged without a kill.
        largest_difference: Of a probability.
    """

    streams: int
    moved: int
    slowest_ms: float
    usual_ms: float
    back_s: float
    wrong: int
    largest_difference: float


def steps(engine: Engine, *, is_quick: bool) -> Iterator[Step]:
    """Measure one replica of one core."""
    driver = EngineWorker(engine)
    vocab = engine.runner.model_config.vocab_size
    for context in (256,) if is_quick else (128, 512, 2048):
        for streams in (1, 16) if is_quick else (1, 8, 32):
            ids = [driver.open() for _ in range(streams)]
            for stream_id in ids:
                driver.score(stream_id, [(7 * n) % vocab for n in range(context)], head=None)
            for k in (2,) if is_quick else (1, 2, 4, 16):
                ms = _step_ms(engine, ids, k=k, repeats=5 if is_quick else 15)
                yield Step(streams, k, context, round(ms, 2), round(streams * k / ms * 1000, 1))
            for stream_id in ids:
                driver.close_stream(stream_id)


def _step_ms(engine: Engine, ids: Sequence[int], *, k: int, repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        lengths = [engine.length(stream_id) for stream_id in ids]
        for stream_id in ids:
            engine.extend(stream_id, list(range(k)), head=Side.RESPONSE)
        start = time.perf_counter()
        while engine.num_queued_tokens:
            engine.step()
        times.append((time.perf_counter() - start) * 1000)
        for stream_id, length in zip(ids, lengths, strict=True):
            engine.truncate(stream_id, length)
    return statistics.median(times[2:])


@contextmanager
def replica_set(replicas: int) -> Iterator[Moderator]:
    """A guard in so many replicas of one core."""
    arguments = ApplicationArguments(
        guard=GUARD,
        engine=EngineConfig(threads=1),
        ray=ReplicaSetConfig(min_replicas=replicas, max_replicas=replicas, cpus=1, timeout_s=120),
    )
    with open_moderator(arguments, policy=NEVER, max_chars=10**6, max_workers=64) as moderator:
        yield moderator


def driver_of(moderator: Moderator) -> RemoteTokenScorer:
    return moderator._guard._driver


def words(number: int) -> list[str]:
    """Words of an answer, another for each stream."""
    all_words = [f"{word} " for word in TEXT.split()]
    return all_words[number % 7 :] + all_words


def feed_all(
    moderator: Moderator, *, streams: int, num_words: int, after: Callable[[int], object] = lambda index: None
) -> tuple[list[list[tuple[float, float]]], list]:
    """Feed words to many streams at once, as fast as they are judged.

    Returns:
        When each word was fed and how long it took, of each stream; and the results.
    """
    times: list[list[tuple[float, float]]] = [[] for _ in range(streams)]
    results: list = [None] * streams

    def run(number: int) -> None:
        text = words(number)
        with moderator.stream(prompt=f"How is bread made, version {number}?") as stream:
            for index in range(num_words):
                start = time.perf_counter()
                stream.feed(text[index % len(text)])
                times[number].append((start, time.perf_counter() - start))
                after(index)
            results[number] = stream.finish()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, results


def spread(moderator: Moderator, *, replicas: int, streams: int, num_words: int) -> Spread:
    start, cpu_before = time.perf_counter(), cpu_s()
    times, results = feed_all(moderator, streams=streams, num_words=num_words)
    seconds, used_s = time.perf_counter() - start, cpu_s() - cpu_before
    tokens = sum(len(result.response.verdicts) for result in results)
    taken = sorted(each for stream in times for _, each in stream[5:])
    return Spread(
        replicas,
        streams,
        round(tokens / seconds, 1),
        round(statistics.median(taken) * 1000, 1),
        round(taken[int(0.99 * (len(taken) - 1))] * 1000, 1),
        round(1000 * used_s / (streams * num_words), 2),
    )


def cpu_s() -> float:
    """Return the CPU seconds so far of this process and of Ray's on this machine, by their names; Linux only."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, facts = path.read_text().partition(" (")[2].rpartition(") ")
        except OSError:
            continue  # it has ended
        if path.parent.name == str(os.getpid()) or name.startswith(("ray", "gcs_server")):
            ticks += sum(int(value) for value in facts.split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def hop_ms(moderator: Moderator, local: Moderator, *, repeats: int) -> tuple[float, float]:
    """Return the median milliseconds of a word in one stream: through Ray, and in this process on one core."""
    found = []
    for each in (moderator, local):
        times, _ = feed_all(each, streams=1, num_words=repeats)
        found.append(statistics.median(taken for _, taken in times[0][5:]) * 1000)
    return round(found[0], 2), round(found[1], 2)


def recovery(moderator: Moderator, *, streams: int, num_words: int) -> Recovery:
    """Kill one of two replicas in the middle of many streams."""
    driver = driver_of(moderator)
    handle = driver._replica_set.handle
    pids: dict[str, int] = {}
    while len(pids) < 2:
        name, pid = handle.pid.remote().result(timeout_s=60)
        pids[name] = pid
    moved_before, killed_at, reached = driver.num_handovers, [], threading.Lock()

    def kill_half_way(index: int) -> None:
        with reached:
            if index == num_words // 2 and not killed_at:
                victim = next(placed.replica for placed in driver._streams.values() if placed.replica in pids)
                killed_at.append((time.perf_counter(), victim))
                os.kill(pids[victim], signal.SIGKILL)

    times, results = feed_all(moderator, streams=streams, num_words=num_words, after=kill_half_way)
    moved = driver.num_handovers - moved_before
    at, victim = killed_at[0]
    around = [taken for stream in times for start, taken in stream if start <= at + 1.0 and start + taken >= at]
    before = [taken for stream in times for start, taken in stream if start + taken < at]
    names: set[str] = set()
    while len(names) < 2:
        name, _ = handle.pid.remote().result(timeout_s=300)
        names |= {name} - {victim}
    back_s = time.perf_counter() - at
    _, unkilled = feed_all(moderator, streams=streams, num_words=num_words)
    wrong, difference = _compare(results, unkilled)
    return Recovery(
        streams,
        moved,
        round(max(around) * 1000, 1),
        round(statistics.median(before) * 1000, 1),
        round(back_s, 1),
        wrong,
        round(difference, 5),
    )


def _compare(found: Sequence, expected: Sequence) -> tuple[int, float]:
    wrong, largest = 0, 0.0
    for one, other in zip(found, expected, strict=True):
        pairs = list(zip(one.response.verdicts, other.response.verdicts, strict=True))
        wrong += any(left.risk_level is not right.risk_level for left, right in pairs)
        for left, right in pairs:
            largest = max(largest, *(abs(left.probabilities[each] - right.probabilities[each]) for each in RiskLevel))
    return wrong, largest


def cache_bytes_per_token(engine: Engine) -> int:
    return engine.runner.token_bytes


def ray_ms_a_word(loads: Sequence[Spread]) -> float:
    """Return the CPU time that Ray adds to a word, with as many streams as were tried without it."""
    (local,) = (load for load in loads if load.replicas == 0)
    return min(load.cpu_ms for load in loads if load.replicas and load.streams == local.streams) - local.cpu_ms


def sizes(tokens_per_s: float, cache_bytes: int, *, ray_ms: float) -> Iterator[Size]:
    """Follow docs/how-to/scaling.md: cores of the guard, of the service and of Ray, memory of the caches."""
    for streams in (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000):
        words_per_s = streams * WORDS_PER_S
        yield Size(
            streams,
            round(words_per_s * TOKENS_PER_WORD / (tokens_per_s * USED), 2),
            round(words_per_s * GATEWAY_MS_PER_WORD / 1000 / USED, 2),
            round(words_per_s * ray_ms / 1000 / USED, 2),
            round(streams * STREAM_TOKENS * cache_bytes / 1e9, 2),
        )


def table(title: str, rows: Sequence) -> list[str]:
    if not rows:
        return []
    names = list(asdict(rows[0]))
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", "|" + " ---: |" * len(names)]
    lines += ["| " + " | ".join(str(value) for value in asdict(row).values()) + " |" for row in rows]
    return [f"## {title}", "", *lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and shorter loads")
    arguments = parser.parse_args()
    facts = environment()
    num_words, most = (40, 16) if arguments.quick else (120, 32)
    engine = load_engine(find_checkpoint(GUARD), engine=EngineConfig(threads=1))
    one_core = list(steps(engine, is_quick=arguments.quick))
    cache_bytes = cache_bytes_per_token(engine)
    del engine
    loads, hop = [], (0.0, 0.0)
    for replicas in (2,) if arguments.quick else (1, 2):
        with replica_set(replicas) as moderator:
            if not loads:
                with load(GUARD, policy=NEVER, engine=EngineConfig(threads=1)) as local:
                    hop = hop_ms(moderator, local, repeats=num_words)
                    loads.append(spread(local, replicas=0, streams=most, num_words=num_words))
            for streams in sorted({8, most}):
                loads.append(spread(moderator, replicas=replicas, streams=streams, num_words=num_words))
            if replicas == 2:
                killed = recovery(moderator, streams=16, num_words=num_words)
    busiest = max((each for each in one_core if each.k == 2), key=lambda each: (each.streams, -abs(each.context - 512)))
    needed = list(sizes(busiest.tokens_per_s, cache_bytes, ray_ms=ray_ms_a_word(loads)))
    report = {
        "environment": facts,
        "quick": arguments.quick,
        "cache_bytes_per_token": cache_bytes,
        "steps": [asdict(each) for each in one_core],
        "word_ms": {"ray": hop[0], "in_process": hop[1]},
        "loads": [asdict(each) for each in loads],
        "recovery": asdict(killed),
        "sizes": [asdict(each) for each in needed],
    }
    page = "\n".join(
        [
            f"# Scaling, {facts['date']}",
            "",
            f"{facts['cpu']}, {facts['cores']} cores; Python {facts['python']}, torch {facts['torch']};"
            f" guard {GUARD}, {torch.get_num_threads()} threads outside replicas.",
            "",
            *table("One core: a step of k new tokens in each stream", one_core),
            f"A word in one stream takes {hop[0]} ms through Ray and {hop[1]} ms in one process (medians, one core).",
            "",
            *table("Replicas of one core (0: the guard in this process), words as fast as they are judged", loads),
            *table("One of two replicas killed with -9", [killed]),
            f"One core judges {busiest.tokens_per_s} tokens/s ({busiest.streams} streams, k = 2, context"
            f" {busiest.context}): {busiest.tokens_per_s / WORDS_PER_S / TOKENS_PER_WORD:.0f} answers of"
            f" {WORDS_PER_S:g} words a second at most. A token of cache is {cache_bytes} bytes.",
            "",
            *table("Sizes", needed),
        ]
    )
    print(page)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if arguments.markdown:
        Path(arguments.markdown).write_text(page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
