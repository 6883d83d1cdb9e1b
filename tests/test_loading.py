"""From a name to a moderator."""

import json

import httpx
import pytest
import torch

import streamward
from streamward.engine.config import EngineConfig
from streamward.errors import CheckpointError, ConfigError
from streamward.model.checkpoint import save_checkpoint
from tests.generative.gen_guards import GEN_TEMPLATE, random_lm
from tests.moderation.guards import TEMPLATE, byte_tokenizer, random_model


def write(folder, model, template):
    save_checkpoint(model, folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_a_stream_folder_becomes_a_moderator_that_streams(tmp_path, dtype):
    with streamward.load(write(tmp_path, random_model(), TEMPLATE), dtype=dtype) as guard:
        whole = guard.moderate(prompt="hello", response="the thing")
        with guard.stream(prompt="hello") as stream:
            for character in "the thing":
                stream.feed(character)
            response = stream.finish().response
    assert len(response.verdicts) == len(whole.response.verdicts)


def test_packed_weights_give_the_verdicts_of_plain_ones(tmp_path):
    from tests.moderation.guards import stream_guard

    plain = streamward.Moderator(stream_guard(), policy=streamward.Policy.load("strict"))
    with streamward.load(write(tmp_path, random_model(), TEMPLATE), dtype=torch.float32) as packed:
        for text in ("hello", "the thing " * 30):
            expected = dict(plain.moderate(prompt=text).prompt.probabilities)
            assert dict(packed.moderate(prompt=text).prompt.probabilities) == pytest.approx(expected, abs=1e-4)


def test_a_gen_folder_becomes_a_moderator_of_whole_texts(tmp_path):
    with streamward.load(write(tmp_path, random_lm(1), GEN_TEMPLATE), dtype=torch.float32) as guard:
        result = guard.moderate(prompt="hello", response="world")
        assert result.response.refusal in (True, False)
        with pytest.raises(streamward.InputError, match="whole texts only"):
            guard.stream(prompt="hello")


def test_weights_of_8_bits_are_refused_where_the_shape_does_not_suit_them(tmp_path):
    with pytest.raises(ConfigError, match=r"8-bit weights need inputs that are multiples of 64"):
        streamward.load(write(tmp_path, random_lm(1), GEN_TEMPLATE), engine=EngineConfig(weights="int8"))


def test_an_endpoint_has_an_address_and_a_model(monkeypatch):
    asked = []

    def answer(self, request):
        asked.append(request)
        content = "Safety: Unsafe\nCategories: Violent"
        return httpx.Response(200, json={"choices": [{"message": {"content": content}}]}, request=request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    monkeypatch.setenv("STREAMWARD_API_KEY", "open-sesame")
    with streamward.load("http://guard:8000/v1#org/model") as guard:
        assert guard.moderate(prompt="hello").decision.action == "block"
    assert str(asked[0].url) == "http://guard:8000/v1/chat/completions"
    assert json.loads(asked[0].content)["model"] == "org/model"
    assert asked[0].headers["Authorization"] == "Bearer open-sesame"


def test_an_endpoint_without_a_model_is_refused():
    with pytest.raises(ConfigError, match="http://host/v1#model"):
        streamward.load("http://guard:8000/v1")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, file):
    folder = write(tmp_path, random_model(), TEMPLATE)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        streamward.load(folder)


def test_a_policy_that_does_not_exist_is_found_before_the_weights(tmp_path):
    with pytest.raises(ConfigError, match="not found"):
        streamward.load(tmp_path / "nowhere", policy="missing.toml")
