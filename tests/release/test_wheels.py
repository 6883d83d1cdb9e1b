"""What is built for installation: the wheel's tag and content, the sdist without a compiler, wheels of guards."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from build_kernels import NO_COMPILER
from release.guard_wheel import guard_wheel
from release.inspection import LibraryFacts, defects, public_functions, read_library
from release.targets import TARGETS, UNITS
from release.wheels import WheelError, check_texts
from streamward.kernels.library import LIBRARY_PATH, available_units, built_units
from tests.bundled.packages import write_prepared_guard

ROOT = Path(__file__).parents[2]
BUILD_FILES = ("pyproject.toml", "setup.py", "build_kernels.py", "MANIFEST.in", "README.md", "LICENSE", "NOTICE")
PLATFORM = "musllinux_1_2_aarch64"
NAMED = {target.platform.split(".")[0]: target for target in TARGETS}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the parts of the package that decide about the build."""
    folder = tmp_path_factory.mktemp("project")
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, folder)
    package = folder / "src" / "streamward"
    ignored = shutil.ignore_patterns("__pycache__", "_kernels.*", "adapter.safetensors")
    for part in ("bundled", "kernels"):
        shutil.copytree(ROOT / "src" / "streamward" / part, package / part, ignore=ignored)
    for guard in (package / "bundled").glob("*/config.json"):
        (guard.parent / "adapter.safetensors").write_bytes(b"weights")
    for name in ("__init__.py", "py.typed"):
        shutil.copy(ROOT / "src" / "streamward" / name, package)
    return folder


def setup(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "PYTHONPATH")}
    command = [sys.executable, "setup.py", "--quiet", *arguments]
    return subprocess.run(
        command, cwd=project, env={**kept, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(project: Path) -> zipfile.ZipFile:
    library = project / "other" / "_kernels.so"
    library.parent.mkdir()
    library.write_bytes(b"compiled elsewhere")
    arguments = ("bdist_wheel", "--dist-dir", "dist")
    done = setup(project, *arguments, STREAMWARD_KERNELS=str(library), STREAMWARD_PLATFORM=PLATFORM)
    assert done.returncode == 0, done.stderr
    (path,) = (project / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (member,) = (each for each in wheel.namelist() if each.endswith(f".dist-info/{name}"))
    return wheel.read(member).decode()


def test_the_wheel_is_for_every_python_of_its_platform(wheel: zipfile.ZipFile) -> None:
    assert Path(str(wheel.filename)).name.endswith(f"-py3-none-{PLATFORM}.whl")
    assert f"Tag: py3-none-{PLATFORM}" in metadata(wheel, "WHEEL").splitlines()
    assert "Root-Is-Purelib: false" in metadata(wheel, "WHEEL").splitlines()


def test_the_wheel_holds_the_library_and_neither_its_sources_nor_guards(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("streamward/kernels/_kernels.so") == b"compiled elsewhere"
    names = set(wheel.namelist())
    assert {"streamward/py.typed", "streamward/bundled/chat_template.jinja"} <= names
    assert [name for name in names if "csrc" in name or "safetensors" in name or "135m" in name] == []


def test_what_serving_needs_is_neither_torch_nor_gguf(wheel: zipfile.ZipFile) -> None:
    lines = re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", metadata(wheel, "METADATA"), re.MULTILINE)
    core = {name for name, rest in lines if "extra ==" not in rest}
    assert {"numpy", "safetensors", "tokenizers"} <= core
    assert core & {"torch", "gguf", "transformers", "ziglang", "lief"} == set()
    assert ("torch", '>=2.6; extra == "torch"') in lines


def test_without_a_compiler_the_build_ends_with_one_sentence(project: Path) -> None:
    done = setup(project, "build_ext", PATH="")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: {NO_COMPILER}"]


def test_a_compiler_that_fails_is_told_without_a_traceback(project: Path) -> None:
    done = setup(project, "build_ext", CC="no-such-compiler")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: {NO_COMPILER} (no-such-compiler cannot be run)"]


def test_the_wheel_of_a_guard_is_data_with_an_entry_point(tmp_path: Path) -> None:
    prepared = write_prepared_guard(tmp_path / "prepared")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "README.md").write_text("# Tiny\n", encoding="utf-8")
    path = guard_wheel("tiny-guard", source=tmp_path / "source", prepared=prepared, version="1.2", folder=tmp_path)
    assert path.name == "streamward_guard_tiny_guard-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        module = {Path(name).name for name in archive.namelist() if name.startswith("streamward_guard_tiny_guard/")}
        assert module >= {"model.int8.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "README.md"}
        information = "streamward_guard_tiny_guard-1.2.dist-info"
        entry_points = archive.read(f"{information}/entry_points.txt").decode()
        assert "Requires-Dist: streamward>=1.2" in archive.read(f"{information}/METADATA").decode()
    assert entry_points.splitlines() == ["[streamward.guards]", "tiny-guard = streamward_guard_tiny_guard"]


def test_a_guard_that_is_too_large_is_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("release.guard_wheel.MAX_BYTES", 1000)
    prepared = write_prepared_guard(tmp_path / "prepared")
    (prepared / "README.md").write_text("# Tiny\n", encoding="utf-8")
    with pytest.raises(ValueError, match="at most 0 are allowed"):
        guard_wheel("tiny", source=tmp_path, prepared=prepared, version="1", folder=tmp_path / "dist")
    assert not list(tmp_path.glob("dist/*"))


def test_a_wheel_that_names_a_folder_of_the_build_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("package/_kernels.so", b"\0/builder/secret/unit.c\0")
    check_texts(tmp_path / "x.whl", ["/builder/other"])
    with pytest.raises(WheelError, match=r"x\.whl: package/_kernels\.so names /builder/secret"):
        check_texts(tmp_path / "x.whl", ["/builder/secret"])


@pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")
def test_the_library_of_this_machine_is_read_as_it_is() -> None:
    facts = read_library(LIBRARY_PATH)
    assert facts.system == sys.platform
    assert facts.exports == public_functions()
    assert facts.units == set(built_units())


def facts_for(platform: str, **changes: object) -> LibraryFacts:
    target = NAMED[platform]
    values: dict[str, object] = {
        "system": target.system,
        "machine": target.machine,
        "exports": public_functions(),
        "libraries": target.libraries,
        "glibc": target.glibc,
        "units": frozenset(UNITS[target.machine]),
    }
    return LibraryFacts(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("platform", NAMED)
def test_a_library_that_suits_its_platform_has_no_defects(platform: str) -> None:
    assert list(defects(facts_for(platform), NAMED[platform])) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"machine": "aarch64"}, "it is for linux aarch64, not linux x86_64"),
        ({"exports": frozenset()}, "it does not export streamward_decode"),
        ({"exports": public_functions() | {"memcpy"}}, "it exports memcpy"),
        ({"libraries": frozenset({"libgomp.so.1"})}, "it needs libgomp.so.1"),
        ({"glibc": (2, 34)}, "it needs glibc 2.34"),
        ({"units": frozenset({"scalar", "avx2", "avxvnni", "avx512vnni"})}, "it lacks the units avx512bf16"),
    ],
)
def test_a_library_that_does_not_suit_is_told(changes: dict[str, object], told: str) -> None:
    platform = "manylinux_2_17_x86_64"
    (found,) = defects(facts_for(platform, **changes), NAMED[platform])
    assert found.startswith(told)


def test_no_two_wheels_have_one_tag() -> None:
    assert len(NAMED) == len(TARGETS) == 7
