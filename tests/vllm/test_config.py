"""Where vLLM runs and what it may be told."""

import pytest
import torch

import streamward
from streamward.errors import ConfigError
from streamward.server.config import ServeConfig
from streamward.vllm import local
from streamward.vllm.config import VllmConfig
from streamward.vllm.guard import vllm_token_scorer
from tests.model.checkpoints import gen_checkpoint, stream_checkpoint


def test_a_word_or_an_address_says_where():
    assert VllmConfig.of("vllm") == VllmConfig()
    assert VllmConfig.of("http://localhost:8000") == VllmConfig(url="http://localhost:8000")


@pytest.mark.parametrize(
    "text", ["", "sglang", "localhost:8000", "http://", "http://user:pw@host", "ftp://host", "http://a b"]
)
def test_other_words_are_refused(text):
    with pytest.raises(ConfigError):
        VllmConfig.of(text)
    with pytest.raises(ConfigError):
        streamward.load(vllm=text)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "guard"},
        {"api_key_env": "KEY"},
        {"url": "http://host", "options": {"block_size": 32}},
        {"url": "http://host", "timeout_s": 0},
        {"url": "http://host", "timeout_s": float("inf")},
        {"max_streams": 0},
        {"port": 8000},
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings):
    with pytest.raises(ConfigError):
        VllmConfig.parse(settings, source="vllm")


def test_a_service_has_one_engine():
    assert ServeConfig.load(None, changes=["vllm.url=http://host:8000"]).vllm == VllmConfig(url="http://host:8000")
    with pytest.raises(ConfigError, match="takes the place of engine"):
        ServeConfig.load(None, changes=["vllm.url=http://host:8000", "engine.max_streams=9"])


def test_a_guard_behind_an_endpoint_is_not_read_by_vllm():
    with pytest.raises(ConfigError, match="leave vllm out"):
        streamward.load("http://host/v1#guard", vllm="vllm")


def test_a_gen_guard_is_vllms_own(tmp_path):
    folder = gen_checkpoint().write(tmp_path)
    with pytest.raises(ConfigError, match="serves Gen guards by itself"):
        vllm_token_scorer(folder, VllmConfig(), dtype=torch.float32)


@pytest.mark.parametrize(
    ("found", "problem"),
    [(None, "not installed"), ("0.9.2", "0.9.2 is too old; 0.32.0 was tested"), ("0.31.9", "too old")],
)
def test_a_vllm_that_is_missing_or_too_old_is_said(tmp_path, monkeypatch, found, problem):
    monkeypatch.setattr(local, "vllm_version", lambda: found)
    with pytest.raises(ConfigError, match=problem):
        vllm_token_scorer(stream_checkpoint().write(tmp_path), VllmConfig(), dtype=torch.float32)


def test_what_streamward_sets_is_no_option(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "vllm_version", lambda: "0.32.0")
    config = VllmConfig(options={"enable_prefix_caching": False})
    with pytest.raises(ConfigError, match="enable_prefix_caching, which is set by streamward"):
        vllm_token_scorer(stream_checkpoint().write(tmp_path), config, dtype=torch.float32)
