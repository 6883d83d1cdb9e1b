"""What vLLM finds at its entry points, with a vLLM that is not there."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamward.vllm import plugin

ROOT = Path(__file__).parents[2]


@pytest.fixture
def registered(monkeypatch) -> dict[str, str]:
    """Names registered with a registry that stands for vLLM's."""
    names: dict[str, str] = {}
    registry = SimpleNamespace(register_model=names.__setitem__)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))
    return names


def test_the_entry_points_of_the_package_exist():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for group in ("vllm.general_plugins", "vllm.io_processor_plugins"):
        module, _, function = groups[group]["streamward"].partition(":")
        assert callable(getattr(import_module(module), function))


def test_both_families_are_registered_without_loading_them(registered, monkeypatch):
    monkeypatch.setattr(plugin, "vllm_version", lambda: plugin.TESTED)
    plugin.register_models()
    plugin.register_models()
    assert registered == {
        "Qwen3ForGuardModel": "streamward.vllm.model:Qwen3ForGuardModel",
        "LlamaForGuardModel": "streamward.vllm.model:LlamaForGuardModel",
    }


def test_an_untested_version_is_warned_of_and_used(registered, monkeypatch, caplog):
    monkeypatch.setattr(plugin, "vllm_version", lambda: "0.40.1rc2")
    plugin.register_models()
    assert "vLLM 0.40.1rc2 was not tested with streamward; 0.32.0 was" in caplog.text
    assert len(registered) == 2


@pytest.mark.parametrize("found", ["0.10.2", "0.31.9", "0.9", "0.31.1.dev3+gabc"])
def test_an_old_version_keeps_its_own_models_and_gets_none(registered, monkeypatch, caplog, found):
    monkeypatch.setattr(plugin, "vllm_version", lambda: found)
    plugin.register_models()
    assert f"vLLM {found} is too old" in caplog.text
    assert registered == {}


@pytest.mark.parametrize("found", ["0.32.0", "0.32.1", "0.33.0rc1", "1.0.0", None])
def test_newer_versions_are_not_too_old(found):
    assert not plugin.is_too_old(found)
