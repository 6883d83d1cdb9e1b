"""Makes the wheels of streamward, one for each platform, and those of its guards: `make wheels`.

The kernels are compiled by `zig cc` (package ziglang), which has the headers of all platforms; the library inside each
wheel is inspected before the wheel is kept. Wheels for this machine and guards are written to `dist/`, so that
`pip install dist/*.whl` installs them; wheels for other platforms to `dist/other/`.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from build_kernels import KernelBuildError, compile_kernels, find_compiler, library_name
from release.inspection import defects, read_library
from release.project import ROOT, build_sdist, build_wheel
from release.targets import TARGETS, Target

ZIG = (sys.executable, "-m", "ziglang", "cc")
# Without names of files and without a table of symbols, the library does not tell where it was built.
STRIPPED = ("-g0", "-s")
_TEXTS = (".py", ".toml", ".txt", ".jinja", ".json", ".md", ".js", ".css", ".html")


class WheelError(Exception):
    """A wheel cannot be built, or its content is not what it promises."""


def compile_for(target: Target, folder: Path) -> Path:
    """Compile the kernels for a platform and inspect the library.

    Raises:
        WheelError: The compiler fails, or the library does not suit the platform.
    """
    library = folder / target.platform / library_name(target.system)
    try:
        compile_kernels(
            library,
            compiler=(*ZIG, "-target", target.zig),
            machine=target.machine,
            system=target.system,
            extra_flags=(*STRIPPED, *target.link_flags),
        )
    except KernelBuildError as error:
        raise WheelError(f"{target.platform}: {error}") from error
    facts = read_library(library)
    if found := list(defects(facts, target)):
        raise WheelError(f"{target.platform}: the library does not suit: {'; '.join(found)}")
    print(f"{target.platform}: {facts}", flush=True)
    return library


def compile_here(folder: Path) -> tuple[Path, str | None]:
    """Compile the kernels with this machine's compiler.

    Returns:
        The library, and the platform of the oldest glibc that has what it needs; None where there is no glibc.

    Raises:
        WheelError: There is no compiler, or it fails.
    """
    library = folder / "here" / library_name(sys.platform)
    try:
        compile_kernels(library, compiler=find_compiler(), extra_flags=STRIPPED)
    except KernelBuildError as error:
        raise WheelError(str(error)) from error
    facts = read_library(library)
    print(f"this machine: {facts}", flush=True)
    return library, None if facts.glibc is None else f"manylinux_{'_'.join(map(str, facts.glibc[:2]))}_{facts.machine}"


def wheel_for(library: Path, tag: str | None, *, source: Path, folder: Path) -> Path:
    """Build the wheel around a library.

    Args:
        library: The kernels.
        tag: Platform; None for that of this Python.
        source: The unpacked sdist.
        folder: Where the wheel goes.

    Raises:
        WheelError: The wheel tells where it was built.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "1577836800")  # one time for all files, so that builds can be compared
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "STREAMWARD_KERNELS": str(library)}
    if tag is not None:
        environment["STREAMWARD_PLATFORM"] = tag
    shutil.rmtree(source / "build", ignore_errors=True)  # holds the library of the platform before
    with tempfile.TemporaryDirectory() as temporary:
        wheel = build_wheel(source, Path(temporary), environment=environment)
        check_texts(wheel, forbidden_texts(source))
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, folder / wheel.name))


def forbidden_texts(*folders: Path) -> frozenset[str]:
    """Return what would tell where a wheel was built: folders of this machine, and the host of its package index."""
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    hosts = set(re.findall(r"https?://([^/\s']+)", configured))
    return frozenset({str(ROOT), str(Path.home()) + "/", *map(str, folders), *hosts})


def check_texts(wheel: Path, forbidden: Iterable[str]) -> None:
    """Raise a WheelError if a member of a wheel holds a forbidden text."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.endswith((*_TEXTS, ".so", ".dylib", ".dll")) or ".dist-info/" in member:
                content = archive.read(member)
                if found := [text for text in forbidden if text.encode() in content]:
                    raise WheelError(f"{wheel.name}: {member} names {found[0]}")


def is_for_this_machine(target: Target) -> bool:
    """Whether pip installs a target's wheel here; of the two kinds of Linux, glibc's is taken for this machine's."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    has_libc = target.system != "linux" or (target.glibc is not None) == (platform.libc_ver()[0] == "glibc")
    return (target.system, target.machine) == (sys.platform, machine) and has_libc


def main() -> None:
    """Build the wheels of the platforms that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--platform", action="append", help="only this one, such as win_amd64; may be given again")
    choice.add_argument("--system-compiler", action="store_true", help="one wheel, by this machine's compiler")
    given = parser.parse_args()
    names = {target.platform.split(".")[0]: target for target in TARGETS}
    if unknown := set(given.platform or ()) - names.keys():
        parser.error(f"no platform {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            build(
                [names[name] for name in given.platform or names],
                output=given.output,
                scratch=Path(temporary),
                is_by_system_compiler=given.system_compiler,
            )
    except WheelError as error:
        sys.exit(f"error: {error}")


def build(targets: Iterable[Target], *, output: Path, scratch: Path, is_by_system_compiler: bool) -> None:
    """Build the sdist and the wheels.

    Raises:
        WheelError: A wheel cannot be built.
    """
    output.mkdir(parents=True, exist_ok=True)
    archive = build_sdist(scratch)  # all wheels are built from it: what it lacks, they lack
    with tarfile.open(archive) as packed:
        packed.extractall(scratch, filter="data")
    source = scratch / archive.name.removesuffix(".tar.gz")
    if is_by_system_compiler:
        library, tag = compile_here(scratch)
        print(wheel_for(library, tag, source=source, folder=output).name)
        return
    for target in targets:
        library = compile_for(target, scratch)
        folder = output if is_for_this_machine(target) else output / "other"
        print(wheel_for(library, target.platform, source=source, folder=folder).name, flush=True)
    shutil.move(archive, output / archive.name)


if __name__ == "__main__":
    main()
