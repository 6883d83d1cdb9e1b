"""Makes the wheel of a guard: 8-bit weights, tokenizer, chat template, config and card, and nothing that runs."""

import argparse
import shutil
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from release.project import ROOT, build_wheel, project_version
from streamward.bundled.adapter import ADAPTER_FILE, load_adapter
from streamward.bundled.base import BASES, find_base
from streamward.bundled.embedded import embedded_guards, guard_base, guard_folder, prepare_int8
from streamward.bundled.packages import DISTRIBUTION_PREFIX, ENTRY_POINT_GROUP

MAX_BYTES = 100 * 10**6  # the size up to which package indexes accept a file without asking
_GEMMA_LICENCE = "LicenseRef-Gemma"
_DESCRIPTIONS = ("README.md", "report.json", "calibration.json")
_MANIFEST = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "{version}"
description = "The guard {name} of Streamward with 8-bit weights, ready to be mapped"
readme = "README.md"
license = "{licence}"
license-files = ["licences/*"]
requires-python = ">=3.11"
dependencies = ["streamward>={version}"]

[project.entry-points."{group}"]
{name} = "{module}"

[tool.setuptools]
packages = ["{module}"]

[tool.setuptools.package-data]
{module} = ["*"]
"""


def guard_wheel(name: str, *, source: Path, prepared: Path, version: str, folder: Path) -> Path:
    """Build the wheel of a guard.

    Args:
        name: Of the guard.
        source: Its folder in the clone, with its card.
        prepared: Its folder with 8-bit weights, tokenizer and config.
        version: Of the wheel, and of the oldest streamward that can read it.
        folder: Where the wheel goes.

    Returns:
        The wheel.

    Raises:
        ValueError: It is larger than `MAX_BYTES`.
    """
    module = f"streamward_guard_{name.replace('-', '_')}"
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary) / name
        package = project / module
        shutil.copytree(prepared, package)
        tokenizer = package / "tokenizer.json"
        Tokenizer.from_file(str(tokenizer)).save(str(tokenizer), pretty=False)  # is parsed in half the time
        for path in (source / each for each in _DESCRIPTIONS if (source / each).exists()):
            shutil.copy(path, package)
        (package / "__init__.py").write_text(f'"""The guard {name} of Streamward: data, found by its entry point."""\n')
        shutil.copy(package / "README.md", project)
        licence = _copy_licences(source, project / "licences")
        values = {"distribution": DISTRIBUTION_PREFIX + name, "group": ENTRY_POINT_GROUP, "licence": licence}
        manifest = _MANIFEST.format(name=name, module=module, version=version, **values)
        (project / "pyproject.toml").write_text(manifest, encoding="utf-8")
        wheel = build_wheel(project, Path(temporary) / "wheel")
        if wheel.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"{wheel.name} has {wheel.stat().st_size / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f} are allowed"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, folder / wheel.name))


def _copy_licences(source: Path, folder: Path) -> str:
    """Copy the licence texts of our weights and of the base; return the name of the licence."""
    folder.mkdir()
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    base = load_adapter(source).base if (source / ADAPTER_FILE).exists() else None
    notices = BASES[base].notices if base in BASES else ()
    for _, file in notices:
        shutil.copy(find_base(str(base)) / Path(file).name, folder / f"base-{Path(file).name}")
    return f"Apache-2.0 AND {_GEMMA_LICENCE}" if notices else "Apache-2.0"


def _has_own_terms(name: str) -> bool:
    """True if whoever passes the guard on must pass on the terms of its base."""
    base = guard_base(name)
    return base is not None and bool(base.notices)


def main() -> None:
    """Build the wheels that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="GUARD",
        help="by default all of this clone whose base has no terms of its own",
    )
    parser.add_argument("--version", default=project_version(), help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    for name in given.names or [name for name in embedded_guards() if not _has_own_terms(name)]:
        source = guard_folder(name)
        wheel = guard_wheel(
            name, source=source, prepared=prepare_int8(source), version=given.version, folder=given.output
        )
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
