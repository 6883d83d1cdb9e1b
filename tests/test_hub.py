"""Hubs: what is asked of their libraries, and what their failures become."""

import sys
from types import ModuleType

import pytest

from streamward.errors import CheckpointError, ConfigError
from streamward.hub import fetch
from streamward.loading import find_checkpoint


@pytest.fixture
def asked(monkeypatch, tmp_path):
    calls = []
    for name in ("huggingface_hub", "modelscope"):
        module = ModuleType(name)

        def snapshot_download(path, *, library=name, **options):
            calls.append((library, path, options))
            return str(tmp_path)

        module.snapshot_download = snapshot_download
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_a_hub_id_is_fetched_from_hugging_face(asked, tmp_path):
    assert find_checkpoint("Qwen/Qwen3Guard-Stream-0.6B") == tmp_path
    library, path, options = asked[0]
    assert (library, path, options["revision"]) == ("huggingface_hub", "Qwen/Qwen3Guard-Stream-0.6B", None)


def test_a_revision_follows_an_at_sign(asked):
    fetch("org/name@v2")
    assert asked[0][1:] == ("org/name", {"revision": "v2", "allow_patterns": asked[0][2]["allow_patterns"]})


def test_modelscope_has_a_prefix(asked):
    fetch("modelscope:Qwen/Qwen3Guard-Gen-0.6B")
    assert asked[0][:2] == ("modelscope", "Qwen/Qwen3Guard-Gen-0.6B")


def test_code_is_never_asked_for(asked):
    fetch("org/name")
    patterns = asked[0][2]["allow_patterns"]
    assert not [
        pattern for pattern in patterns if pattern.endswith((".py", ".bin", ".pt", "*")) and "LICENSE" not in pattern
    ]


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"streamward\[hub\]"):
        fetch("org/name")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (ConnectionError, "the hub cannot be reached"),
        (type("LocalEntryNotFoundError", (FileNotFoundError,), {}), "not in the cache"),
        (type("GatedRepoError", (OSError,), {}), "needs permission"),
        (type("RepositoryNotFoundError", (OSError,), {}), "no such repository"),
        (type("Unheard", (Exception,), {}), "try again later"),
    ],
)
def test_a_repository_that_cannot_be_had_says_why(asked, monkeypatch, kind, told):
    def fail(*_args, **_options):
        raise kind("https://secret@host")

    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="org/name cannot be fetched from Hugging Face Hub: ") as caught:
        fetch("org/name")
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
    assert kind.__name__ not in str(caught.value)


def test_a_name_that_is_nothing_says_what_is_possible():
    with pytest.raises(CheckpointError, match=r"no guard 'nothing'.*a folder, or a hub id"):
        find_checkpoint("nothing")
