"""Compares appends of the embedded base, all its 30 layers behind 512 tokens, with those of llama.cpp.

    python benchmarks/beside_llama.py --llama-python PYTHON --output FOLDER

PYTHON is an interpreter whose environment has llama-cpp-python, built with `CMAKE_ARGS=-DGGML_NATIVE=ON`. Each side is
a process of its own that measures when it is told to, in turns, so that all meet the same state of the machine.
llama.cpp computes no logits, which a guard does not need; ours computes the heads as well, and shares no beginnings.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = 512
CASES = ((1, 1), (1, 4), (1, 16), (32, 4))
"""Streams, and new tokens of each."""
MIN_S = 0.4
"""Least time of one turn of a case, in seconds."""


def llama(gguf: str) -> Callable[[int, int], Callable[[], None]]:
    """Load a file into llama.cpp; the result prepares a case and returns what is timed."""
    import llama_cpp as ll

    ll.llama_backend_init()
    parameters = ll.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.use_extra_bufts = False  # its AMX buffers crash with these files; no others apply
    model = ll.llama_model_load_from_file(gguf.encode(), parameters)
    assert model, gguf

    def prepare(streams: int, k: int) -> Callable[[], None]:
        settings = ll.llama_context_default_params()
        settings.n_ctx = (CONTEXT + 64) * streams
        settings.n_batch = settings.n_ubatch = max(CONTEXT, streams * k)
        settings.n_seq_max = streams
        settings.n_threads = settings.n_threads_batch = os.cpu_count() or 1
        context = ll.llama_init_from_model(model, settings)
        memory = ll.llama_get_memory(context)

        def decode(tokens: list[tuple[int, int, int]]) -> None:
            batch = ll.llama_batch_init(len(tokens), 0, 1)
            batch.n_tokens = len(tokens)
            for index, (token, position, stream) in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, position
                batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, stream, 0
            code = ll.llama_decode(context, batch)
            ll.llama_batch_free(batch)
            assert code == 0, code

        for stream in range(streams):
            decode([(7 + index % 1000, index, stream) for index in range(CONTEXT)])

        def step() -> None:
            decode([(7 + index, CONTEXT + index, stream) for stream in range(streams) for index in range(k)])
            for stream in range(streams):
                ll.llama_memory_seq_rm(memory, stream, CONTEXT, -1)

        return step

    return prepare


def ours() -> Callable[[int, int], Callable[[], None]]:
    """Make our engine with 8-bit weights; the result prepares a case and returns what is timed."""
    import torch

    from streamward.bench.backends import appending
    from streamward.bench.shapes import random_guard, rounded
    from streamward.engine.config import EngineConfig
    from streamward.engine.engine import Engine
    from streamward.engine.native_runner import NativeModelRunner
    from streamward.model.torch_parameters import parameters_of

    weights = rounded(parameters_of(random_guard("135m", dtype=torch.bfloat16)))
    config = EngineConfig(prefix_sharing=False)

    def prepare(streams: int, k: int) -> Callable[[], None]:
        engine = Engine(config, NativeModelRunner(weights, config))
        return appending(engine, context=CONTEXT, k=k, streams=streams).step

    return prepare


def serve(side: str) -> None:
    """Measure each case that a line of the input names; write the median in seconds."""
    prepare = ours() if side == "ours" else llama(side)
    prepared: dict[tuple[int, int], Callable[[], None]] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        streams, k = json.loads(line)
        step = prepared.get((streams, k)) or prepared.setdefault((streams, k), prepare(streams, k))
        step()
        times: list[float] = []
        while sum(times) < MIN_S or len(times) < 3:
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        print(json.dumps(statistics.median(times)), flush=True)


class Side:
    """A process that measures one side."""

    def __init__(self, python: str, argument: str, **environment: str) -> None:
        command = [python, __file__, "--serve", argument]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()) and line != "ready\n":
            pass

    def measure(self, streams: int, k: int) -> float:
        """Return the median seconds of one step of a case."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([streams, k]) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def quantized(llama_python: str, source: Path, folder: Path) -> Path:
    """Return the file with weights in Q8_0, made by llama.cpp."""
    target = folder / "Q8_0.gguf"
    code = (
        "import sys, llama_cpp as ll; p = ll.llama_model_quantize_default_params(); p.allow_requantize = True;"
        " p.ftype = ll.LLAMA_FTYPE_MOSTLY_Q8_0;"
        " sys.exit(ll.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))"
    )
    if not target.exists():
        subprocess.run([llama_python, "-c", code, str(source), str(target)], check=True, capture_output=True)
    return target


def cpu_name() -> str:
    """Return what `lscpu` calls the processor, and its instruction sets beyond AVX2."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = {name.strip(): value for name, _, value in (line.partition(": ") for line in lines)}
    flags = [flag for flag in fields.get("flags", "").split() if flag.startswith(("avx_", "avx512_", "amx"))]
    return f"{fields.get('model name', platform.machine())} ({', '.join(flags)})"


def main() -> None:
    """Measure all cases in turns; print a table and write a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve")
    parser.add_argument("--llama-python")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    from streamward.bundled.base import find_gguf

    (source,) = find_gguf()
    scratch = given.output or Path(".")
    scratch.mkdir(parents=True, exist_ok=True)
    sides = {
        "ours": Side(sys.executable, "ours"),
        "ours, avx2": Side(sys.executable, "ours", STREAMWARD_CPU="avx2"),
        "llama.cpp Q4_1": Side(given.llama_python, str(source)),
        "llama.cpp Q8_0": Side(given.llama_python, str(quantized(given.llama_python, source, scratch))),
    }
    (scratch / "Q8_0.gguf").unlink(missing_ok=True)
    times: dict[str, dict[str, list[float]]] = {}
    for turn in range(given.turns):
        for streams, k in CASES:
            for name, side in sides.items():
                times.setdefault(f"{streams} x {k}", {}).setdefault(name, []).append(side.measure(streams, k))
        print(f"turn {turn + 1} of {given.turns}", file=sys.stderr, flush=True)
    report(times, given.output)


def report(times: dict[str, dict[str, list[float]]], folder: Path | None) -> None:
    """Print medians and paired ratios, and write them."""
    heads = [
        "streams x new tokens",
        "ours ms",
        "ours, avx2 ms",
        "Q4_1 ms",
        "Q8_0 ms",
        "llama.cpp / ours",
        "/ ours, avx2",
    ]
    lines = [f"| {' | '.join(heads)} |", f"| --- {'| ---: ' * (len(heads) - 1)}|"]
    for case, by_side in times.items():
        medians = [1e3 * statistics.median(by_side[name]) for name in by_side]
        ratios = []
        for name in ("ours", "ours, avx2"):
            pairs = zip(by_side["llama.cpp Q4_1"], by_side["llama.cpp Q8_0"], by_side[name], strict=True)
            ratios.append(statistics.median(min(one, other) / own for one, other, own in pairs))
        cells = [*(f"{value:.1f}" for value in medians), *(f"{ratio:.2f}" for ratio in ratios)]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    print(text)
    if folder is not None:
        record: dict[str, Any] = {"cpu": cpu_name(), "context": CONTEXT, "seconds": times}
        (folder / "report.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        title = f"{cpu_name()}, {os.cpu_count()} cores, context {CONTEXT}; the ratio is of the better of both files"
        (folder / "report.md").write_text(f"{title}\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
