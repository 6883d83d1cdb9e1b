"""Which unit runs, and that nothing before that choice needs more than the baseline."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import build_kernels
from streamward.errors import ConfigError
from streamward.kernels import library
from streamward.kernels.library import ENVIRONMENT_VARIABLE, available_units, built_units, load_kernels

FASTEST = available_units()[-1]


def test_the_fastest_unit_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert load_kernels().unit == FASTEST
    assert load_kernels() is load_kernels(FASTEST)


def test_the_scalar_unit_runs_everywhere() -> None:
    assert available_units()[0] == "scalar"
    assert set(available_units()) <= set(built_units())


@pytest.mark.parametrize("unit", available_units())
def test_the_environment_names_the_unit(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, unit)
    assert load_kernels().unit == unit


def test_an_unknown_unit_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "sse9")
    with pytest.raises(ConfigError, match=r"STREAMWARD_CPU is 'sse9'; this build has scalar"):
        load_kernels()


def test_a_unit_that_the_machine_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "available_units", lambda: ("scalar",))
    unit = built_units()[-1]
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, unit)
    with pytest.raises(
        ConfigError, match=rf"STREAMWARD_CPU is '{unit}', which this machine cannot run; it runs scalar"
    ):
        load_kernels()


def test_a_missing_library_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "LIBRARY_PATH", tmp_path / "_kernels.so")
    with pytest.raises(ConfigError, match="install streamward again from a wheel, or with a C compiler"):
        library._library.__wrapped__()


def test_without_a_compiler_the_build_fails_in_one_sentence(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, build_kernels.__file__, "--output", str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == f"error: {build_kernels.NO_COMPILER}"


needs_binutils = pytest.mark.skipif(
    shutil.which("objdump") is None or shutil.which("gcc") is None or os.uname().machine != "x86_64",
    reason="needs objdump and gcc on x86-64",
)


@needs_binutils
@pytest.mark.parametrize("source", build_kernels.BASELINE_SOURCES)
def test_code_before_the_choice_has_no_vex_or_evex_instructions(source: str, tmp_path: Path) -> None:
    target = tmp_path / "out.o"
    flags = [*build_kernels.FLAGS, build_kernels.SMALL, "-fPIC"]
    subprocess.run(["gcc", *flags, "-c", build_kernels.SOURCES / f"{source}.c", "-o", target], check=True, timeout=120)
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", target], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    mnemonics = {match[1] for match in re.finditer(r"^\s+[0-9a-f]+:\s+(\S+)", text, re.MULTILINE)}
    assert "ret" in mnemonics
    assert not {mnemonic for mnemonic in mnemonics if mnemonic.startswith("v")}
    assert not re.search(r"%[yz]mm", text)


@needs_binutils
def test_no_unit_runs_code_while_the_library_is_loaded() -> None:
    sections = subprocess.run(
        ["objdump", "-h", library.LIBRARY_PATH], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    found = re.search(r"\.init_array\s+([0-9a-f]+)", sections)
    assert found is None or int(found[1], 16) == 8  # the compiler's own frame_dummy
