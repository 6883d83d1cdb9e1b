"""An adapter and its base make the guard that was trained; whatever does not fit is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from streamward.bundled.adapter import ADAPTER_FILE, Adapter, load_adapter, merge_adapter, save_adapter
from streamward.errors import CheckpointError
from streamward.kernels.bfloat16 import from_bfloat16
from streamward.model.config_file import read_config
from streamward.model.parameters import ModelParameters, read_shapes
from streamward.model.torch_parameters import decoder_parameters, parameters_of
from streamward.train.lora import add_lora, lora_modules, merge_lora
from streamward.train.trainer import trained_tensors
from tests.train.tiny import tiny_guard


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An adapter over the tiny guard's decoder."""
    model = tiny_guard()
    add_lora(model.decoder, rank=4, alpha=8)
    for _, module in lora_modules(model.decoder):
        torch.nn.init.normal_(module.lora_b, std=0.1)
    tensors = {name: value.detach().numpy() for name, value in trained_tensors(model).items()}
    adapter = Adapter("tiny", 2.0, tensors)
    save_adapter(tmp_path, adapter, model_config=model.decoder.config, guard_config=model.guard_config)
    return tmp_path


def merged(folder: Path) -> ModelParameters:
    _, config, guard = read_shapes(folder)
    base = decoder_parameters(tiny_guard().decoder.bfloat16())
    return merge_adapter(folder, base, model_config=config, guard_config=guard)


def test_a_guard_built_from_its_adapter_is_the_trained_one(saved: Path) -> None:
    trained = tiny_guard().bfloat16()
    add_lora(trained.decoder, rank=4, alpha=8)
    tensors = {name: value.float() for name, value in load_file(saved / ADAPTER_FILE).items()}
    trained.load_state_dict(tensors, strict=False)
    merge_lora(trained.decoder)
    expected, actual = parameters_of(trained), merged(saved)
    assert actual.weights.keys() == expected.weights.keys()
    for name in expected.weights:
        one, other = (from_bfloat16(each.bfloat16(name)) for each in (actual, expected))
        np.testing.assert_allclose(one, other, rtol=0.01, atol=1e-6)  # a unit of bfloat16: 1 / 128
    for name, vector in expected.vectors.items():
        np.testing.assert_array_equal(actual.vectors[name], vector)


@pytest.mark.parametrize("name", ["decoder.layers.0.qkv.lora_b", "prompt_heads.risk.weight"])
def test_a_missing_tensor_is_named(saved: Path, name: str) -> None:
    tensors = load_file(saved / ADAPTER_FILE)
    del tensors[name]
    save_file(tensors, saved / ADAPTER_FILE)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        merged(saved)


def test_a_truncated_adapter_is_an_error(saved: Path) -> None:
    path = saved / ADAPTER_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        merged(saved)


def test_a_setting_of_another_type_is_an_error(saved: Path) -> None:
    assert not load_adapter(saved).has_rounded_weights
    keys = read_config(saved)
    keys["streamward"]["rounded_weights"] = "yes"
    (saved / "config.json").write_text(json.dumps(keys))
    with pytest.raises(CheckpointError, match="rounded_weights must be true or false"):
        load_adapter(saved)


def test_a_misshapen_update_is_an_error(saved: Path) -> None:
    tensors = load_file(saved / ADAPTER_FILE)
    tensors["decoder.layers.0.qkv.lora_a"] = torch.zeros(4, 7)
    save_file(tensors, saved / ADAPTER_FILE)
    with pytest.raises(CheckpointError, match="does not fit"):
        merged(saved)
