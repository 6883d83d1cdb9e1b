"""Compile the kernels: one object for each unit with its own flags, linked to one library that needs no Python headers.

Used by setup.py; by hand, `python build_kernels.py --output FILE` for this machine, or for another one with a compiler
that targets it: `--compiler "zig cc -target aarch64-linux-musl" --machine aarch64 --system linux`.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "src" / "streamward" / "kernels" / "csrc"
BASELINE_SOURCES = ("dispatch", "cpu", "pool", "rope_table")
"""Run before a unit is chosen, on any processor."""
# Products are fused where the code says so and nowhere else: else units would not compute the same bits.
FLAGS = ("-std=c11", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall")
FAST, SMALL = "-O3", "-O2"
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
UNITS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "scalar": (SMALL, "-ftree-vectorize"),
        "avx2": (FAST, *_AVX2),
        "avxvnni": (FAST, *_AVX2, "-mavxvnni"),
        "avx512vnni": (FAST, *_AVX512),
        "avx512bf16": (FAST, *_AVX512, "-mavx512bf16"),
    },
    "aarch64": {
        "scalar": (SMALL, "-ftree-vectorize"),
        "dotprod": (FAST, "-march=armv8.2-a+dotprod"),
        "i8mm": (FAST, "-march=armv8.2-a+dotprod+i8mm"),
    },
    "other": {"scalar": (SMALL, "-ftree-vectorize")},
}
"""Flags of each unit, by machine; the names are those of csrc/unit.c."""
# zig names processors where gcc and clang name architectures.
_ZIG = {
    "-march=armv8.2-a+dotprod": "-mcpu=generic+dotprod",
    "-march=armv8.2-a+dotprod+i8mm": "-mcpu=generic+dotprod+i8mm",
}
_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
NO_COMPILER = "streamward's kernels need a C compiler (gcc 11 or clang 14, or newer): install one, or install a wheel"


class KernelBuildError(Exception):
    """There is no compiler, or it does not compile the kernels."""


def library_name(system: str) -> str:
    """Return the file that library.py looks for."""
    return f"_kernels.{ {'darwin': 'dylib', 'windows': 'dll', 'win32': 'dll'}.get(system, 'so') }"


def find_compiler() -> list[str]:
    """Return the command of `CC`, or the first compiler that is installed.

    Raises:
        KernelBuildError: There is none.
    """
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise KernelBuildError(NO_COMPILER)


def compile_kernels(
    output: Path,
    *,
    compiler: Sequence[str],
    machine: str = platform.machine(),
    system: str = sys.platform,
    extra_flags: Sequence[str] = (),
    main: Path | None = None,
) -> None:
    """Compile and link.

    Args:
        output: The library to write.
        compiler: Command of gcc, clang or `zig cc`, with a target where it is not this machine.
        machine: Processor of the target.
        system: `linux`, `darwin` or `win32`.
        extra_flags: For compiling and linking, behind all others.
        main: A C file with `main`: then the output is a program.

    Raises:
        KernelBuildError: The compiler cannot be run or fails.
    """
    units = UNITS[_MACHINES.get(machine.lower(), "other")]
    position = () if system.startswith("win") else ("-fPIC",)
    with tempfile.TemporaryDirectory() as folder:
        commands, objects = [], []
        for name in BASELINE_SOURCES:
            objects.append(f"{folder}/{name}.o")
            commands.append(
                [*FLAGS, SMALL, *position, *extra_flags, "-c", str(SOURCES / f"{name}.c"), "-o", objects[-1]]
            )
        if main is not None:
            objects.append(f"{folder}/main.o")
            commands.append([*FLAGS, SMALL, *extra_flags, f"-I{SOURCES}", "-c", str(main), "-o", objects[-1]])
        is_zig = any("zig" in word for word in compiler)
        for unit, flags in units.items():
            flags = tuple(_ZIG.get(flag, flag) if is_zig else flag for flag in flags)
            objects.append(f"{folder}/unit_{unit}.o")
            defined = f"-DUNIT_{unit.upper()}"
            commands.append(
                [*FLAGS, *flags, *position, *extra_flags, defined, "-c", str(SOURCES / "unit.c"), "-o", objects[-1]]
            )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda command: _run([*compiler, *command]), commands))
        libraries = () if system.startswith("win") else ("-lm", "-lpthread")
        output.parent.mkdir(parents=True, exist_ok=True)
        shared = () if main else ("-shared",)
        _run([*compiler, *shared, *extra_flags, "-o", str(output), *objects, *libraries])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise KernelBuildError(f"{NO_COMPILER} ({command[0]} cannot be run)") from error
    if done.returncode:
        raise KernelBuildError(f"{command[0]} does not compile streamward's kernels: {done.stderr.strip()[-2000:]}")
    if done.stderr:
        print(done.stderr, file=sys.stderr)


def main() -> None:
    """Compile as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the library; by default where this clone looks for it")
    parser.add_argument("--compiler", help="its command, with a target where it is not this machine")
    parser.add_argument("--machine", default=platform.machine())
    parser.add_argument("--system", default=sys.platform, help="linux, darwin or win32")
    parser.add_argument("--main", type=Path, help="a C file with main: makes a program instead")
    parser.add_argument("--flags", default="", help="for compiling and linking, behind all others")
    given = parser.parse_args()
    output = given.output or SOURCES.parent / library_name(given.system)
    try:
        compiler = shlex.split(given.compiler) if given.compiler else find_compiler()
        compile_kernels(
            output,
            compiler=compiler,
            machine=given.machine,
            system=given.system,
            extra_flags=shlex.split(given.flags),
            main=given.main,
        )
    except KernelBuildError as error:
        sys.exit(f"error: {error}")
    print(output)


if __name__ == "__main__":
    main()
