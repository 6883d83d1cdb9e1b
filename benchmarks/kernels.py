"""Time of one step of a decoder, for each unit of the kernels, beside kernels of an earlier commit.

Prints a table of medians. All candidates of a shape are measured in turns, a few steps each, so that what else the
machine does hits all alike; `read` among them reads as many bytes from memory as weights and cache have, with as many
threads, and does nothing else. Earlier kernels run in a process of their own, from a
clone of that commit whose kernels are built: `--baseline FOLDER`.

    python benchmarks/kernels.py --shapes 135m 0.6b --units avx2 avx512bf16 --baseline ../before --cases 1x1 1x16 8x4

A case is a number of streams and of new tokens of each. `of peak` are the integer products of the linear layers in a
second, of 8 bits, beside what the same unit does with a layer that stays in the second-level cache, for 48 tokens.
"""

import argparse
import ctypes
import itertools
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
from streamward.kernels.weights import OperandBuffer, PackedWeight

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
PEAK_OUTPUTS, PEAK_INPUTS, PEAK_ROWS, PEAK_REPEATS = 1024, 512, 48, 40


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


def make_decoder(
    shape: dict[str, Any], mode: dict[str, bool], kernels: Kernels, *, max_rows: int, num_pages: int
) -> KernelDecoder:
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
        num_pages=num_pages,
        page_tokens=PAGE_TOKENS,
        max_rows=max_rows,
        int8_cache=mode["int8_cache"],
        fast_attention=mode["fast"],
    )


def stepper(decoder: KernelDecoder, *, streams: int, count: int, context: int) -> Callable[[], None]:
    """Read a context of each stream, and return a function that reads the last tokens of all of them once more."""
    num_pages = -(-context // PAGE_TOKENS)
    pages = [list(range(stream * num_pages, (stream + 1) * num_pages)) for stream in range(streams)]

    def read(each_pages: Sequence[list[int]], start: int, stop: int) -> None:
        span = range(start, stop)
        slots = [each[at // PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS for each in each_pages for at in span]
        decoder.decode(
            [at % VOCAB_SIZE for at in span] * len(each_pages),
            positions=[*span] * len(each_pages),
            slots=slots,
            parts=[SequenceSlice(len(span), stop, each) for each in each_pages],
        )

    for each in pages:
        for start in range(0, context, 64):
            read([each], start, min(start + 64, context))
    return lambda: read(pages, context - count, context)


def layer_weights(shape: dict[str, Any]) -> int:
    """Return how many weights the linear layers of one layer have."""
    d = shape["head_dim"]
    heads, kv_heads = shape["heads"] * d, shape["kv_heads"] * d
    return int(shape["hidden"] * (2 * heads + 2 * kv_heads + 3 * shape["inner"]))


def bytes_of_step(shape: dict[str, Any], mode: dict[str, bool], *, streams: int, context: int) -> int:
    """Return what one step reads: weights with their scales, keys and values."""
    num_weights = layer_weights(shape)
    weight_bytes = num_weights * 66 // 64 if mode["is_int8"] else num_weights * 2
    token_bytes = cache_token_bytes(
        num_kv_heads=shape["kv_heads"], head_dim=shape["head_dim"], is_int8=mode["int8_cache"]
    )
    return int(shape["layers"] * (weight_bytes + streams * context * token_bytes))


def peak_products(kernels: Kernels) -> Callable[[], None]:
    """Return a function that multiplies a layer of 8 bits that stays in the cache, PEAK_REPEATS times."""
    layer = random_weight(
        np.random.default_rng(0), kernels, (PEAK_OUTPUTS,), PEAK_INPUTS, is_int8=True, is_gated=False, fast=False
    )
    layer.matmul(np.ones((PEAK_ROWS, PEAK_INPUTS), np.float32))
    operand = OperandBuffer(PEAK_ROWS, PEAK_INPUTS)
    out = np.empty((PEAK_ROWS, PEAK_OUTPUTS), np.float32)

    def multiply() -> None:
        for _ in range(PEAK_REPEATS):
            kernels.call("multiply", layer.address, ctypes.addressof(operand.args), out.ctypes.data, PEAK_ROWS, 0)

    return multiply


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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["135m", "0.6b"], choices=SHAPES)
    parser.add_argument("--modes", nargs="+", default=["int8"], choices=MODES)
    parser.add_argument("--units", nargs="+", default=available_units()[-1:])
    parser.add_argument("--cases", nargs="+", default=["1x1", "1x4", "1x16"], metavar="STREAMSxTOKENS")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, help="by default as many as there are cores")
    parser.add_argument("--baseline", help="clone of an earlier commit")
    parser.add_argument("--pause", action="store_true", help="wait for a line of input before each measurement")
    given = parser.parse_args()
    given.cases = [tuple(map(int, case.split("x"))) for case in given.cases]
    return given


def measure(steps: dict[str, Callable[[int], list[float]]], *, turns: int) -> dict[str, list[float]]:
    """Return the milliseconds of each candidate's steps, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            found[name] += step(STEPS_PER_TURN)
    return found


def show(title: str, found: dict[str, list[float]], *, products: float, num_peak: float) -> None:
    """Print the rows of one case.

    Args:
        title: What was measured.
        found: Milliseconds by candidate; `read` and `peak UNIT` are not candidates.
        products: Multiplications of the linear layers in a step.
        num_peak: Those of one turn of `peak UNIT`.
    """
    names = [name for name in found if name != "read" and not name.startswith("peak ")]
    first = statistics.median(found[names[0]])
    for name in ["read", *names]:
        median = statistics.median(found[name])
        read = statistics.median(value / base for value, base in zip(found[name], found["read"], strict=True))
        peak = found.get(f"peak {name}")
        share = "" if peak is None else f"{products / num_peak * min(peak) / median:.2f}"
        ratios = f"{median / first:.3f} | {read:.2f} | {share}"
        print(f"| {title} | {name} | {median:.2f} | {min(found[name]):.2f} | {ratios} |")
    sys.stdout.flush()


def in_turn(step: Callable[[], None]) -> Callable[[int], list[float]]:
    return lambda number: times(step, number + 1)[1:]


def main() -> None:
    given = parse()
    set_num_threads(given.threads or num_threads())
    baseline = Baseline(given.baseline, threads=num_threads()) if given.baseline else None
    print(
        f"| shape, mode, case ({num_threads()} threads) | candidate | median ms | least ms |"
        " to the first | to read | of peak |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    most_streams = max(streams for streams, _ in given.cases)
    num_pages = most_streams * -(-given.context // PAGE_TOKENS)
    max_rows = max(64, *(streams * count for streams, count in given.cases))
    for shape, mode in itertools.product(given.shapes, given.modes):
        sizes, kind = SHAPES[shape], MODES[mode]
        decoders = {
            unit: make_decoder(sizes, kind, load_kernels(unit), max_rows=max_rows, num_pages=num_pages)
            for unit in given.units
        }
        if baseline:
            baseline.ask(
                make=shape, shape=sizes, mode=kind, context=given.context, num_pages=num_pages, max_rows=max_rows
            )
        for streams, count in given.cases:
            bytes_read = bytes_of_step(sizes, kind, streams=streams, context=given.context)
            steps = {"read": in_turn(reader(bytes_read))}
            if baseline:
                case = {"streams": streams, "count": count}
                baseline.ask(prepare=streams)
                steps["baseline"] = lambda number, case=case: baseline.ask(steps=number, **case)
            for unit, decoder in decoders.items():
                steps[unit] = in_turn(stepper(decoder, streams=streams, count=count, context=given.context))
                if kind["is_int8"]:
                    steps[f"peak {unit}"] = in_turn(peak_products(load_kernels(unit)))
            if given.pause:
                print("ready", file=sys.stderr, flush=True)
                input()
            show(
                f"{shape} {mode} {streams} x {count}",
                measure(steps, turns=given.turns),
                products=sizes["layers"] * layer_weights(sizes) * streams * count,
                num_peak=PEAK_OUTPUTS * PEAK_INPUTS * PEAK_ROWS * PEAK_REPEATS,
            )


if __name__ == "__main__":
    main()
