import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from streamward.bundled.adapter import ADAPTER_FILE, Adapter, build_guard, load_adapter, save_adapter
from streamward.errors import CheckpointError
from streamward.model.config import parse_model_config
from streamward.model.config_file import read_config
from streamward.model.decoder import Decoder, dense_hidden
from streamward.schema import Side
from streamward.train.lora import add_lora, lora_modules, merge_lora
from streamward.train.trainer import trained_tensors
from tests.train.tiny import MODEL_CONFIG, tiny_guard


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An adapter over the tiny guard's decoder."""
    model = tiny_guard()
    add_lora(model.decoder, rank=4, alpha=8)
    for _, module in lora_modules(model.decoder):
        torch.nn.init.normal_(module.lora_b, std=0.1)
    save_adapter(tmp_path, Adapter("tiny", 2.0, trained_tensors(model)), model=model)
    return tmp_path


def base() -> Decoder:
    return tiny_guard().decoder


def test_a_guard_built_from_its_adapter_is_the_trained_one(saved: Path) -> None:
    trained = tiny_guard()
    add_lora(trained.decoder, rank=4, alpha=8)
    tensors = {name: value.float() for name, value in load_file(saved / ADAPTER_FILE).items()}
    trained.load_state_dict(tensors, strict=False)
    merge_lora(trained.decoder)
    built = build_guard(saved, base(), model_config=parse_model_config(read_config(saved)))
    ids = torch.arange(10).view(1, 10)
    with torch.no_grad():
        expected = trained.heads(Side.RESPONSE)(dense_hidden(trained.decoder, ids)[0])
        actual = built.heads(Side.RESPONSE)(dense_hidden(built.decoder, ids)[0])
    torch.testing.assert_close(actual.risk_TR, expected.risk_TR, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["decoder.layers.0.qkv.lora_b", "prompt_heads.risk.weight"])
def test_a_missing_tensor_is_named(saved: Path, name: str) -> None:
    tensors = load_file(saved / ADAPTER_FILE)
    del tensors[name]
    save_file(tensors, saved / ADAPTER_FILE)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        build_guard(saved, base(), model_config=MODEL_CONFIG)


def test_a_truncated_adapter_is_an_error(saved: Path) -> None:
    path = saved / ADAPTER_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        build_guard(saved, base(), model_config=MODEL_CONFIG)


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
        build_guard(saved, base(), model_config=MODEL_CONFIG)
