"""Time of one step of a decoder, for each unit of the kernels, beside kernels of an earlier commit.

Prints a table of medians. All candidates of a shape are measured in turns, a few steps each, so that what else the
machine does hits all alike; `read` among them reads as many bytes from memory as weights and cache have, with as many
threads, and does nothing else. Earlier kernels run in a process of their own, from a
clone of that commit whose kernels are built: `--baseline FOLDER`.

    python benchmarks/kernels.py --shapes 135m 0.6b --units avx2 avx512bf16 --baseline ../before
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from streamward.kernels.arena import lazy_zeros
from streamward.kernels.cache import SequenceSlice, cache_token_bytes
from streamward.kernels.decoder import DecoderWeights, KernelDecoder, LayerWeights
from streamward.kernels.library import Kernels, available_units, load_kernels, num_threads, set_num_threads
from streamward.kernels.quantization import QuantizedWeight
from streamward.kernels.weights import PackedWeight

SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "hidden": 576,
        "layers": 30,
        "heads": 9,
        "kv_heads": 3,
        "head_dim": 64,
        "inner": 1536,
        "has_qk_norm": False,
        "gemma": False,
    },
    "0.6b": {
        "hidden": 1024,
        "layers": 28,
        "heads": 16,
        "kv_heads": 8,
        "head_dim": 128,
        "inner": 3072,
        "has_qk_norm": True,
        "gemma": False,
    },
    "gemma-270m": {
        "hidden": 640,
        "layers": 18,
        "heads": 4,
        "kv_heads": 1,
        "head_dim": 256,
        "inner": 2048,
        "has_qk_norm": True,
        "gemma": True,
    },
}
MODES = {
    "int8": {"is_int8": True, "int8_cache": False, "fast": False},
    "int8-fast": {"is_int8": True, "int8_cache": False, "fast": True},
    "int8-kv8": {"is_int8": True, "int8_cache": True, "fast": False},
    "bf16": {"is_int8": False, "int8_cache": False, "fast": True},
    "bf16-portable": {"is_int8": False, "int8_cache": False, "fast": False},
}
PAGE_TOKENS, VOCAB_SIZE = 64, 1000
STEPS_PER_TURN = 8


def random_weight(
    rng: np.random.Generator, kernels: Kernels, sizes: Sequence[int], inputs: int, **kind: Any
) -> PackedWeight:
    gated = {"is_gated": kind["is_gated"], "kernels": kernels}
    if kind["is_int8"]:
        blocks = [
            QuantizedWeight(
                rng.integers(-127, 128, (size, inputs), np.int8), np.full((size, inputs // 64), 0x3940, np.uint16)
            )
            for size in sizes
        ]
        return PackedWeight.int8(blocks, **gated)
    signs = [rng.integers(0, 2, (size, inputs), np.uint16) << np.uint16(15) for size in sizes]
    return PackedWeight.bfloat16([sign | np.uint16(0x3CC0) for sign in signs], is_fast=kind["fast"], **gated)


def make_decoder(shape: dict[str, Any], mode: dict[str, bool], kernels: Kernels, *, max_rows: int) -> KernelDecoder:
    rng = np.random.default_rng(0)
    hidden, d, inner = shape["hidden"], shape["head_dim"], shape["inner"]
    heads, kv_heads = shape["heads"] * d, shape["kv_heads"] * d
    norm, head_norm = np.ones(hidden, np.float32), np.ones(d, np.float32) if shape["has_qk_norm"] else None
    out_norm = norm if shape["gemma"] else None
    kind = {"is_int8": mode["is_int8"], "fast": mode["fast"]}
    layers = [
        LayerWeights(
            qkv=random_weight(rng, kernels, (heads, kv_heads, kv_heads), hidden, is_gated=False, **kind),
            out=random_weight(rng, kernels, (hidden,), heads, is_gated=False, **kind),
            gate_up=random_weight(rng, kernels, (inner, inner), hidden, is_gated=True, **kind),
            down=random_weight(rng, kernels, (hidden,), inner, is_gated=False, **kind),
            input_norm=norm,
            post_norm=norm,
            q_norm=head_norm,
            k_norm=head_norm,
            attention_out_norm=out_norm,
            mlp_out_norm=out_norm,
            window=512 if shape["gemma"] and (index + 1) % 6 else None,
        )
        for index in range(shape["layers"])
    ]
    weights = DecoderWeights(
        layers=layers,
        norm=norm,
        embeddings=rng.integers(0x3C00, 0x3D00, (VOCAB_SIZE, hidden), np.uint16),
        num_heads=shape["heads"],
        num_kv_heads=shape["kv_heads"],
        head_dim=d,
        rms_norm_eps=1e-5,
        rope_thetas=(1e6,),
        max_positions=4096,
        activation="gelu_tanh" if shape["gemma"] else "silu",
    )
    return KernelDecoder(
        kernels,
        weights,
        num_pages=4096 // PAGE_TOKENS,
        page_tokens=PAGE_TOKENS,
        max_rows=max_rows,
        int8_cache=mode["int8_cache"],
        fast_attention=mode["fast"],
    )


def stepper(decoder: KernelDecoder, *, count: int, context: int) -> Callable[[], None]:
    """Read a context, and return a function that reads its last tokens once more."""
    pages = list(range(-(-context // PAGE_TOKENS)))

    def read(start: int, stop: int) -> None:
        span = range(start, stop)
        decoder.decode(
            [at % VOCAB_SIZE for at in span], positions=span, slots=span, parts=[SequenceSlice(len(span), stop, pages)]
        )

    for start in range(0, context, 64):
        read(start, min(start + 64, context))
    return lambda: read(context - count, context)


def bytes_of_step(shape: dict[str, Any], mode: dict[str, bool], *, context: int) -> int:
    """Return what one step reads: weights with their scales, keys and values."""
    d, hidden = shape["head_dim"], shape["hidden"]
    heads, kv_heads = shape["heads"] * d, shape["kv_heads"] * d
    num_weights = hidden * (2 * heads + 2 * kv_heads + 3 * shape["inner"])
    weight_bytes = num_weights * 66 // 64 if mode["is_int8"] else num_weights * 2
    token_bytes = cache_token_bytes(num_kv_heads=shape["kv_heads"], head_dim=d, is_int8=mode["int8_cache"])
    return int(shape["layers"] * (weight_bytes + context * token_bytes))


def reader(num_bytes: int) -> Callable[[], None]:
    """Return a function that reads so many bytes of memory with all threads."""
    words = lazy_zeros((num_bytes // 8,), np.int64, huge_pages=True)
    words[:] = 1
    parts = np.array_split(words, num_threads())
    pool = ThreadPoolExecutor(max(1, len(parts) - 1))

    def read() -> None:
        others = [pool.submit(part.sum) for part in parts[1:]]
        parts[0].sum()
        for other in others:
            other.result()

    return read


class Baseline:
    """Kernels of an earlier commit, in a process of their own."""

    def __init__(self, folder: str, *, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{folder}/src", "OMP_NUM_THREADS": str(threads)}
        code = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels_baseline.py")
        self._process = subprocess.Popen(
            [sys.executable, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def times(step: Callable[[], None], number: int) -> list[float]:
    clock = time.thread_time if num_threads() == 1 else time.perf_counter  # of a busy machine, what one thread computes
    found = []
    for _ in range(number):
        start = clock()
        step()
        found.append((clock() - start) * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["135m", "0.6b"], choices=SHAPES)
    parser.add_argument("--modes", nargs="+", default=["int8"], choices=MODES)
    parser.add_argument("--units", nargs="+", default=available_units()[-1:])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, help="by default as many as there are cores")
    parser.add_argument("--baseline", help="clone of an earlier commit")
    given = parser.parse_args()
    set_num_threads(given.threads or num_threads())
    baseline = Baseline(given.baseline, threads=num_threads()) if given.baseline else None
    print(f"| shape, mode, k ({num_threads()} threads) | candidate | median ms | least ms | to the first | to read |")
    print("| --- | --- | --- | --- | --- | --- |")
    for shape in given.shapes:
        for mode in given.modes:
            decoders = {
                unit: make_decoder(SHAPES[shape], MODES[mode], load_kernels(unit), max_rows=max(64, *given.counts))
                for unit in given.units
            }
            if baseline:
                baseline.ask(make=shape, shape=SHAPES[shape], mode=MODES[mode], context=given.context)
            for count in given.counts:
                steps = {
                    unit: stepper(decoder, count=count, context=given.context) for unit, decoder in decoders.items()
                }
                steps = {"read": reader(bytes_of_step(SHAPES[shape], MODES[mode], context=given.context)), **steps}
                found: dict[str, list[float]] = {name: [] for name in (["baseline"] if baseline else []) + list(steps)}
                for _ in range(given.turns):
                    for name, values in found.items():
                        if name == "baseline" and baseline:
                            values += baseline.ask(count=count, steps=STEPS_PER_TURN)
                        else:
                            values += times(steps[name], STEPS_PER_TURN + 1)[1:]
                first = statistics.median(next(values for name, values in found.items() if name != "read"))
                for name, values in found.items():
                    median = statistics.median(values)
                    read = statistics.median(value / base for value, base in zip(values, found["read"], strict=True))
                    print(
                        f"| {shape} {mode} k={count} | {name} | {median:.2f} | {min(values):.2f}"
                        f" | {median / first:.3f} | {read:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
