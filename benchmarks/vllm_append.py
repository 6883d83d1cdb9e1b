"""What an append costs through vLLM, beside our engine, in one run on the same machine. See docs/how-to/vllm.md.

Random weights in the shape of a guard: speed does not depend on what they say. Streams grow from their context by
appends of k random tokens; the two take turns, so that what else the machine does hits both.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from streamward.bench.shapes import SHAPES, random_guard
from streamward.loading import load_engine
from streamward.model.checkpoint import save_checkpoint
from streamward.model.packing import serving_dtype
from streamward.moderation.engine_worker import EngineWorker, TokenScorer
from streamward.schema import Side
from streamward.vllm.config import VllmConfig
from streamward.vllm.guard import vllm_token_scorer


def main() -> None:
    arguments = read_arguments()
    dtype = serving_dtype()
    options = {"kv_cache_memory_bytes": 2**30, "enforce_eager": not arguments.compiled}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / arguments.shape
        save_checkpoint(random_guard(arguments.shape, dtype=dtype), path)
        drivers = {
            "engine": EngineWorker(load_engine(path)),
            "vllm": vllm_token_scorer(
                path, VllmConfig(options=options, timeout_s=300), dtype=str(dtype).removeprefix("torch.")
            ),
        }
        for num_streams, k in ((1, 1), (1, 4), (1, 16), (8, 4), (32, 4)):
            for context in arguments.contexts:
                times = measure(drivers, num_streams=num_streams, k=k, context=context, repeats=arguments.repeats)
                cell = {
                    "shape": arguments.shape,
                    "dtype": str(dtype),
                    "streams": num_streams,
                    "k": k,
                    "context": context,
                }
                medians = {f"{name}_ms": round(statistics.median(each), 1) for name, each in times.items()}
                ratio = round(medians["vllm_ms"] / medians["engine_ms"], 1)
                print(json.dumps({**cell, **medians, "ratio": ratio}), flush=True)
        for driver in drivers.values():
            driver.close()


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="135m-18", help="(default: %(default)s)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512, 2048], help="tokens before the appends")
    parser.add_argument("--repeats", type=int, default=40, help="appends of each stream (default: %(default)s)")
    parser.add_argument("--compiled", action="store_true", help="let vLLM compile the model, which takes minutes")
    return parser.parse_args()


def measure(
    drivers: Mapping[str, TokenScorer], *, num_streams: int, k: int, context: int, repeats: int
) -> dict[str, list[float]]:
    """Return the milliseconds of each round in which every stream is appended to."""
    draw = random.Random(context)
    times: dict[str, list[float]] = {name: [] for name in drivers}
    streams = {name: [driver.open() for _ in range(num_streams)] for name, driver in drivers.items()}
    with ThreadPoolExecutor(num_streams) as pool:
        texts = [tokens(draw, context) for _ in range(num_streams)]
        for name, driver in drivers.items():
            append(pool, driver, streams[name], texts)
        for _ in range(repeats):
            texts = [tokens(draw, k) for _ in range(num_streams)]
            for name, driver in drivers.items():
                start = time.perf_counter()
                append(pool, driver, streams[name], texts)
                times[name].append(1000 * (time.perf_counter() - start))
    for name, driver in drivers.items():
        for stream in streams[name]:
            driver.close_stream(stream)
    return times


def tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(1000) for _ in range(count)]


def append(
    pool: ThreadPoolExecutor, driver: TokenScorer, streams: Sequence[int], texts: Sequence[Sequence[int]]
) -> None:
    list(pool.map(lambda stream, ids: driver.score(stream, ids, head=Side.RESPONSE), streams, texts))


if __name__ == "__main__":
    main()
