"""Appends of the embedded guard by the kernels, beside our torch runner in float32, which serves where there are none.

    STREAMWARD_CPU=avx2 python benchmarks/beside_torch.py [--guard stream-135m] [--context 512] [--turns 15]

Prints medians of a word's token and of a chunk of 16 behind a context, and of their ratios; both are measured in turns.
Of one thread, the time that it computes counts, and other work on the machine does not. With STREAMWARD_CPU=avx2 torch
keeps to AVX2 too. Needs the extra torch.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

if os.environ.get("STREAMWARD_CPU") == "avx2":  # before torch is imported
    os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

import torch

from streamward.bundled.embedded import guard_folder, prepare_guard, prepare_int8
from streamward.engine.config import EngineConfig
from streamward.engine.engine import Engine
from streamward.engine.runner_choice import load_runner
from streamward.kernels.library import num_threads
from streamward.schema import Side

STEPS_PER_TURN = 6


def appender(engine: Engine, *, count: int, context: int) -> Callable[[], None]:
    """Return a function that appends tokens behind a context, which are scored, and takes them back."""
    stream = engine.open()
    engine.extend(stream, [each % 1000 + 100 for each in range(context)], head=None)
    while engine.num_queued(stream):
        engine.step()

    def append() -> None:
        engine.extend(stream, [each + 200 for each in range(count)], head=Side.RESPONSE)
        engine.step()
        engine.truncate(stream, context)

    return append


def times_ms(append: Callable[[], None]) -> list[float]:
    clock = time.thread_time if num_threads() == 1 else time.perf_counter
    append()  # threads that had gone to sleep are back
    found = []
    for _ in range(STEPS_PER_TURN):
        start = clock()
        append()
        found.append((clock() - start) * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guard", default="stream-135m")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, help="of both; by default as many as there are cores")
    parser.add_argument("--pause", action="store_true", help="wait for a line of input before the measurement")
    given = parser.parse_args()
    folders = {"native": prepare_int8(guard_folder(given.guard)), "torch": prepare_guard(given.guard)}
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    engines = {}
    for runner, folder in folders.items():
        config = EngineConfig(runner=runner, prefix_sharing=False, kv_cache_bytes=2**28, threads=given.threads)
        loaded = load_runner(folder, config, dtype="float32" if runner == "torch" else None)
        engines[runner] = Engine(config, loaded)
        print(f"{loaded.description}, {num_threads()} threads")
    cases = {count: {} for count in (1, 16)}
    for count, steps in cases.items():
        steps |= {name: appender(engine, count=count, context=given.context) for name, engine in engines.items()}
    if given.pause:
        print("ready", file=sys.stderr, flush=True)
        input()
    print("| new tokens | kernels, ms | torch, ms | torch to kernels |\n| ---: | ---: | ---: | ---: |")
    for count, steps in cases.items():
        found = {name: [] for name in steps}
        for _ in range(given.turns):
            for name, step in steps.items():
                found[name] += times_ms(step)
        ratio = statistics.median(b / a for a, b in zip(found["native"], found["torch"], strict=True))
        native, fallback = (statistics.median(found[name]) for name in ("native", "torch"))
        print(f"| {count} | {native:.2f} | {fallback:.2f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
