"""Compare hashes of many verdicts of the embedded guard between units, those for ARM in an emulator.

Texts are parts of sentences in twenty languages, and every token of theirs gets a verdict. Each unit reads them in
pieces, batches and pages of its own, drawn from a fixed seed. `make verify-units` runs all; by hand

    python -m tests.kernels.verify_units --verdicts 2000 --units scalar avx2
    python -m tests.kernels.verify_units --units --emulated dotprod i8mm --program build/verdicts-arm
"""

import argparse
import hashlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from tokenizers import Tokenizer

from streamward.bundled.embedded import guard_folder, prepare_int8
from streamward.engine.config import EngineConfig
from streamward.engine.native_runner import NativeModelRunner
from streamward.kernels.library import available_units, load_kernels
from streamward.model.native_choice import load_parameters
from streamward.model.parameters import ModelParameters
from tests.kernels.verdicts import (
    NUM_PAGES,
    PAGE_TOKENS,
    Floats,
    Text,
    make_texts,
    num_columns,
    plan_steps,
    run_step,
    write_guard,
    write_steps,
)

GUARD = "stream-135m"
SEED = 20


def make_runner(parameters: ModelParameters, unit: str, *, threads: int | None = None) -> NativeModelRunner:
    """Pack the guard for a unit of this machine, with a cache of exactly the pages that plans use."""
    config = parameters.config
    token_bytes = 4 * config.num_layers * config.num_kv_heads * config.head_dim
    cache = EngineConfig(page_tokens=PAGE_TOKENS, kv_cache_bytes=NUM_PAGES * PAGE_TOKENS * token_bytes, threads=threads)
    return NativeModelRunner(parameters, cache, kernels=load_kernels(unit))


def seed_of(unit: str) -> int:
    """Return the seed of a unit's batches."""
    return SEED + sum(unit.encode())


def digest(found: Floats) -> str:
    """Return the hash of all probabilities; each verdict's sum to 1, so none is missing."""
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 2, rtol=1e-5)
    return hashlib.sha256(found.tobytes()).hexdigest()


def judge_here(
    parameters: ModelParameters, texts: Sequence[Text], unit: str, threads: int, progress: Progress
) -> Floats:
    """Return the probabilities of all verdicts on a unit of this machine."""
    num_verdicts = texts[-1].first_verdict + len(texts[-1].ids)
    found = np.zeros((num_verdicts, num_columns(parameters)), np.float32)
    runner = make_runner(parameters, unit, threads=threads)
    task = progress.add_task(unit, total=num_verdicts)
    for pieces in plan_steps(texts, seed=seed_of(unit)):
        progress.advance(task, run_step(runner, pieces, found))
    return found


def judge_elsewhere(
    parameters: ModelParameters,
    texts: Sequence[Text],
    unit: str,
    command: Sequence[str],
    threads: int,
    progress: Progress,
) -> Floats:
    """Return the same from a program that reads a file."""
    num_verdicts = texts[-1].first_verdict + len(texts[-1].ids)
    task = progress.add_task(unit, total=100)
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder, "plan.bin"), Path(folder, "found.bin")
        with path.open("wb") as file:
            write_guard(file, parameters, num_verdicts=num_verdicts)
            group = parameters.config.num_heads // parameters.config.num_kv_heads
            write_steps(file, list(plan_steps(texts, seed=seed_of(unit))), group=group)
        with result.open("wb") as out:
            process = subprocess.Popen(
                [*command, unit, str(path), str(threads)], stdout=out, stderr=subprocess.PIPE, text=True
            )
            assert process.stderr is not None
            for line in process.stderr:
                if line.strip().isdigit():
                    progress.update(task, completed=int(line))
                else:
                    progress.console.print(line.strip())
        if process.wait():
            sys.exit(f"error: {' '.join(command)} {unit} ended with {process.returncode}")
        return np.fromfile(result, np.float32).reshape(num_verdicts, num_columns(parameters))


def main() -> None:
    """Run what the command line names; fail if any hash differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=10_000)
    parser.add_argument("--units", nargs="*", default=available_units(), help="of this machine; by default all")
    parser.add_argument("--emulated", nargs="*", default=[], help="units that --program has")
    parser.add_argument("--program", default="build/verdicts-arm", help="verdicts.c, built for the emulated machine")
    parser.add_argument("--emulator", default="qemu-aarch64 -cpu max")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    folder = prepare_int8(guard_folder(GUARD))
    parameters = load_parameters(folder)
    texts = make_texts(Tokenizer.from_file(str(folder / "tokenizer.json")), num_verdicts=given.verdicts, seed=SEED)
    print(f"{given.verdicts} verdicts of {GUARD}, {len(texts)} texts", flush=True)
    found: dict[str, str] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for unit in [*given.units, *given.emulated]:
            start = time.perf_counter()
            if unit in given.emulated:
                command = [*shlex.split(given.emulator), given.program]
                probs = judge_elsewhere(parameters, texts, unit, command, given.threads, progress)
            else:
                probs = judge_here(parameters, texts, unit, given.threads, progress)
            found[unit] = digest(probs)
            print(f"{unit:12} {found[unit]} {time.perf_counter() - start:.0f} s", flush=True)
    if len(set(found.values())) != 1:
        sys.exit("error: units differ")


if __name__ == "__main__":
    main()
