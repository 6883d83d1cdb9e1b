"""Guards that are installed as packages are found, served as they are, and told when they are damaged."""

from pathlib import Path

import numpy as np
import pytest

import streamward
from streamward.bundled.embedded import embedded_guards, guard_folder, is_prepared, prepare_guard
from streamward.errors import CheckpointError, ConfigError
from streamward.kernels.library import available_units
from streamward.loading import find_served
from streamward.model.parameters import load_published
from streamward.model.prepared import PREPARED_FILE, load_prepared
from tests.bundled.packages import GUARD_NAME, install_guard

needs_kernels = pytest.mark.skipif(not available_units(), reason="the kernels were not built on this machine")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STREAMWARD_CACHE", str(folder))
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    return install_guard(site)


@needs_kernels
def test_an_installed_guard_judges_without_being_prepared(package: Path, cache: Path) -> None:
    assert GUARD_NAME in embedded_guards()
    assert is_prepared(GUARD_NAME)
    assert find_served(GUARD_NAME) == package
    with streamward.load(GUARD_NAME) as guard:
        assert guard.moderate(prompt="hello", response="the thing").response is not None
    assert not cache.exists()


@needs_kernels
def test_an_installed_guard_in_the_published_layout_has_the_same_weights(package: Path, cache: Path) -> None:
    folder = prepare_guard(GUARD_NAME)
    assert folder.is_relative_to(cache)
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "tokenizer.json", "chat_template.jinja"}
    published, packaged = load_published(folder), load_prepared(package)
    for name in packaged.weights:
        np.testing.assert_array_equal(published.bfloat16(name), packaged.bfloat16(name))


def test_the_guards_of_a_clone_go_before_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    folder = install_guard(site, name="stream-135m")
    assert guard_folder("stream-135m") != folder
    assert embedded_guards().count("stream-135m") == 1


def test_a_package_without_weights_is_damaged(package: Path) -> None:
    (package / PREPARED_FILE).unlink()
    with pytest.raises(CheckpointError, match="the package streamward-guard-tiny is damaged"):
        find_served(GUARD_NAME)


def test_a_package_whose_module_is_gone_is_damaged(package: Path) -> None:
    package.rename(package.with_name("elsewhere"))
    with pytest.raises(CheckpointError, match="the weights of tiny are missing; install it again"):
        guard_folder(GUARD_NAME)


def test_a_guard_that_is_not_installed_is_unknown() -> None:
    with pytest.raises(ConfigError, match="there is no embedded guard 'tiny'"):
        guard_folder(GUARD_NAME)


def test_where_no_guard_is_installed_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamward.loading.embedded_guards", lambda: [])
    with pytest.raises(
        CheckpointError, match=r"give a folder, or a hub id .*: pip install streamward-guard-stream-135m"
    ):
        find_served("stream-135m-none")
