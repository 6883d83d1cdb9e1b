"""Reads what a compiled library is, whatever platform it is for, and compares it with what its wheel promises."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lief

from release.targets import UNITS, Target

DISPATCH = Path(__file__).parents[1] / "src" / "streamward" / "kernels" / "csrc" / "dispatch.c"
_MACHINES = {"X86_64": "x86_64", "AMD64": "x86_64", "AARCH64": "aarch64", "ARM64": "aarch64"}
_UNIVERSAL_CRT = "api-ms-win-crt-"  # a part of Windows since 10
_ALWAYS_EXPORTED = {"__dso_handle", "_mh_dylib_header"}  # by every library of macOS


@dataclass(frozen=True, slots=True)
class LibraryFacts:
    """What the file of a library says.

    Attributes:
        system: As in `sys.platform`.
        machine: `x86_64` or `aarch64`.
        exports: Names of its functions, as C has them.
        libraries: That it needs.
        glibc: Newest version of glibc that it needs; None without glibc.
        units: Names of the kernels' units found inside.
    """

    system: str
    machine: str
    exports: frozenset[str]
    libraries: frozenset[str]
    glibc: tuple[int, ...] | None
    units: frozenset[str]

    def __str__(self) -> str:
        """One line for the log of a build."""
        glibc = f", glibc {'.'.join(map(str, self.glibc))}" if self.glibc else ""
        return (
            f"{self.system} {self.machine}, {len(self.exports)} functions, needs {', '.join(sorted(self.libraries))}"
            f"{glibc}, units {', '.join(sorted(self.units))}"
        )


def read_library(path: Path) -> LibraryFacts:
    """Read the facts out of an ELF, Mach-O or PE file.

    Raises:
        ValueError: It is none of these.
    """
    lief.logging.disable()  # warns of what stripped files lack
    binary = lief.parse(str(path))
    content = path.read_bytes()
    units = frozenset(unit for units in UNITS.values() for unit in units if unit.encode() + b"\0" in content)
    if isinstance(binary, lief.ELF.Binary):
        versions = [
            auxiliary.name
            for requirement in binary.symbols_version_requirement
            for auxiliary in requirement.get_auxiliary_symbols()
        ]
        exports = {str(symbol.name) for symbol in binary.exported_symbols}
        needed = {str(name) for name in binary.libraries}
        return LibraryFacts(
            "linux",
            _machine(binary.header.machine_type),
            frozenset(exports),
            frozenset(needed),
            _newest(versions),
            units,
        )
    if isinstance(binary, lief.MachO.Binary):
        exports = {str(symbol.name).removeprefix("_") for symbol in binary.exported_symbols}
        own = {command.name for command in binary.commands if command.command == lief.MachO.LoadCommand.TYPE.ID_DYLIB}
        needed = {library.name for library in binary.libraries} - own
        names = frozenset(exports - _ALWAYS_EXPORTED)
        return LibraryFacts("darwin", _machine(binary.header.cpu_type), names, frozenset(needed), None, units)
    if isinstance(binary, lief.PE.Binary):
        exports = {str(entry.name) for entry in binary.get_export().entries} if binary.has_exports else set()
        needed = {imported.name.lower() for imported in binary.imports}
        return LibraryFacts(
            "win32", _machine(binary.header.machine), frozenset(exports), frozenset(needed), None, units
        )
    raise ValueError(f"{path} is neither ELF, Mach-O nor PE")


def public_functions() -> frozenset[str]:
    """Return the functions that the kernels offer, by name in C."""
    return frozenset(
        re.findall(r"^EXPORT [\w *]*?(streamward_\w+)\(", DISPATCH.read_text(encoding="utf-8"), re.MULTILINE)
    )


def defects(facts: LibraryFacts, target: Target) -> Iterator[str]:
    """Say what of a library does not suit a platform; nothing if all does."""
    if (facts.system, facts.machine) != (target.system, target.machine):
        yield f"it is for {facts.system} {facts.machine}, not {target.system} {target.machine}"
    if missing := public_functions() - facts.exports:
        yield f"it does not export {', '.join(sorted(missing))}"
    if extra := facts.exports - public_functions():
        yield f"it exports {', '.join(sorted(extra))}, which nothing calls"
    if foreign := {name for name in facts.libraries - target.libraries if not name.startswith(_UNIVERSAL_CRT)}:
        yield f"it needs {', '.join(sorted(foreign))}, which not every such system has"
    if facts.glibc is not None and (target.glibc is None or facts.glibc > target.glibc):
        yield f"it needs glibc {'.'.join(map(str, facts.glibc))}"
    if absent := set(UNITS[target.machine]) - facts.units:
        yield f"it lacks the units {', '.join(sorted(absent))}"


def _machine(value: object) -> str:
    name = str(value).rpartition(".")[2]
    return _MACHINES.get(name, name)


def _newest(versions: Iterable[str]) -> tuple[int, ...] | None:
    numbers = [
        tuple(map(int, version.removeprefix("GLIBC_").split(".")))
        for version in versions
        if version.startswith("GLIBC_")
    ]
    return max(numbers, default=None)
