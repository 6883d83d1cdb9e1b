"""A broken or unsupported `config.json` is refused by the name of its key, before any memory is taken."""

from pathlib import Path
from typing import Any

import pytest
import torch

from streamward.errors import CheckpointError
from streamward.model.checkpoint import load_stream
from streamward.model.config import model_config_keys, parse_model_config
from tests.model.checkpoints import LLAMA_CONFIG, QWEN3_CONFIG, stream_checkpoint


@pytest.mark.parametrize("content", ["", "{", "\x00", "[" * 100_000, '{"model_type": "qwen3"'])
def test_broken_json_is_refused(tmp_path: Path, content: str) -> None:
    (stream_checkpoint().write(tmp_path) / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON"):
        load_stream(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize("content", ["[]", "5", '"qwen3"', "null"])
def test_json_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (stream_checkpoint().write(tmp_path) / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json must hold a JSON object"):
        load_stream(tmp_path, dtype=torch.float32)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (stream_checkpoint().write(tmp_path) / "config.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON"):
        load_stream(tmp_path, dtype=torch.float32)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_stream(tmp_path / "nowhere", dtype=torch.float32)


NEEDED = [
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
    "guard_inner_size",
    "num_category",
    "num_query_category",
    "num_query_risk_level",
    "num_risk_level",
]
SIZES = [key for key in NEEDED if key != "rms_norm_eps"] + ["head_dim", "num_key_value_heads"]


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    folder = stream_checkpoint().without_config(key).write(tmp_path)
    with pytest.raises(CheckpointError, match=f"{key} is missing"):
        load_stream(folder, dtype=torch.float32)


@pytest.mark.parametrize("value", [-1, 0, 2.5, True, "24", [24], {}, 10**18], ids=str)
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_is_none_is_named(tmp_path: Path, key: str, value: Any) -> None:
    folder = stream_checkpoint().with_config(**{key: value}).write(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{key} is .*; it must be an integer from 1 to \d+"):
        load_stream(folder, dtype=torch.float32)


@pytest.mark.parametrize("value", [5, 1000, 2**31 - 1])
@pytest.mark.parametrize("key", [key for key in SIZES if key != "max_position_embeddings"])
def test_a_size_that_does_not_fit_the_weights_is_refused_at_once(tmp_path: Path, key: str, value: int) -> None:
    folder = stream_checkpoint().with_config(**{key: value}).write(tmp_path)
    with pytest.raises(CheckpointError):
        load_stream(folder, dtype=torch.float32)


def test_more_positions_than_fit_memory_are_refused() -> None:
    with pytest.raises(CheckpointError, match="max_position_embeddings is 2147483647"):
        parse_model_config({**QWEN3_CONFIG, "max_position_embeddings": 2**31 - 1})


@pytest.mark.parametrize("value", [-1e-6, 0, float("nan"), float("inf"), 10**400, "1e-6", True, []], ids=repr)
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_a_number_that_is_none_is_named(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is .*; it must be a positive number"):
        parse_model_config({**QWEN3_CONFIG, key: value})


def test_heads_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"num_attention_heads \(4\) must be a multiple of num_key_value_heads \(3\)"
    ):
        parse_model_config({**QWEN3_CONFIG, "num_key_value_heads": 3})


def test_an_odd_head_is_refused() -> None:
    with pytest.raises(CheckpointError, match="head_dim is 7"):
        parse_model_config({**QWEN3_CONFIG, "head_dim": 7})


@pytest.mark.parametrize("value", ["no", 0, 1, None])
def test_tied_or_not_must_be_said_clearly(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings is .*; it must be true or false"):
        parse_model_config({**QWEN3_CONFIG, "tie_word_embeddings": value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("layer_types", "chunked_attention"),
        ("partial_rotary_factor", 0.5),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
        ("rope_scaling", {"factor": 2.0}),
        ("rope_scaling", ["yarn"]),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.25}),
        ("rope_parameters", {"full_attention": {"rope_type": "default", "rope_theta": 1e6}}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 5.0}),
    ],
)
@pytest.mark.parametrize("config", [QWEN3_CONFIG, LLAMA_CONFIG], ids=["qwen3", "llama"])
def test_what_the_decoder_does_not_do_is_refused(config: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{key}|rope"):
        parse_model_config({**config, key: value})


GEMMA_CONFIG = {
    **{key: value for key, value in QWEN3_CONFIG.items() if key not in ("hidden_act", "rope_scaling")},
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "sliding_window_pattern": 2,
    "rope_local_base_freq": 10000.0,
}


def test_layers_of_gemma_slide_but_each_last_of_a_pattern() -> None:
    config = parse_model_config(GEMMA_CONFIG)
    assert [config.window_of(layer) for layer in range(4)] == [16, None, 16, None]
    assert config.has_qk_norm
    assert parse_model_config(model_config_keys(config)) == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("query_pre_attn_scalar", 99),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("use_bidirectional_attention", True),
        ("hidden_activation", "silu"),
        ("layer_types", ["full_attention"] * 4),
        ("layer_types", "sliding_attention"),
        ("sliding_window", None),
        ("rope_parameters", {"full_attention": {"rope_type": "linear", "factor": 8.0}}),
    ],
)
def test_what_other_models_of_gemma_do_is_refused(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        parse_model_config({**GEMMA_CONFIG, key: value})


def test_plain_rotary_embeddings_in_either_spelling_are_read() -> None:
    old = parse_model_config({**LLAMA_CONFIG, "rope_theta": 500000.0})
    new = {key: value for key, value in LLAMA_CONFIG.items() if key not in ("rope_theta", "rope_scaling")}
    parameters = {"rope_type": "default", "rope_theta": 500000.0}
    assert parse_model_config({**new, "rope_parameters": parameters}) == old
    assert parse_model_config(new).rope_theta == 10000.0


@pytest.mark.parametrize(
    "model_type", ["qwen3_moe", "qwen3_next", "qwen3_vl", "llama4", "gemma3", "mistral", None, 5, []]
)
def test_other_families_are_refused(model_type: Any) -> None:
    with pytest.raises(CheckpointError, match="supported families are qwen3, llama"):
        parse_model_config({**QWEN3_CONFIG, "model_type": model_type, "architectures": ["OtherForCausalLM"]})


@pytest.mark.parametrize("architectures", [5, "Qwen3ForCausalLM", None, ["Qwen3MoeForCausalLM"]])
def test_architectures_of_another_kind_are_refused(architectures: Any) -> None:
    with pytest.raises(CheckpointError, match="supported families are qwen3, llama"):
        parse_model_config({**QWEN3_CONFIG, "model_type": None, "architectures": architectures})


@pytest.mark.parametrize("name", ["Qwen3ForGuardModel", "Qwen3ForCausalLM"])
def test_a_guard_is_known_by_its_architecture_too(name: str) -> None:
    assert parse_model_config({**QWEN3_CONFIG, "model_type": "own", "architectures": [name]}).has_qk_norm


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("query_category_map", {"0": "Violent"}, "query_category_map must name each of the logits 0 to 8 once"),
        (
            "response_risk_level_map",
            {"0": "Safe", "1": "Unsafe", "2": "Safe"},
            "response_risk_level_map must name each",
        ),
        ("response_risk_level_map", {"0": "Safe", "1": "Unsafe", "2": "Fine"}, "known labels are Safe"),
        ("response_risk_level_map", {"0": "Safe", "1": "Unsafe", "2": ["Fine"]}, "known labels are Safe"),
        ("response_risk_level_map", {"Safe": 0, "Unsafe": 1, "Controversial": 2.5}, "response_risk_level_map has"),
        ("response_risk_level_map", {"Safe": 0, "Unsafe": 1, "Controversial": None}, "response_risk_level_map has"),
        ("response_risk_level_map", ["Safe", "Unsafe", "Controversial"], "must map 3 logit indices to labels"),
        ("query_risk_level_map", None, "query_risk_level_map must map 3 logit indices to labels"),
        ("num_risk_level", 2, "response_risk_level_map must name each of the logits 0 to 1 once"),
        ("streamward", [], "streamward is .*; it must be an object"),
        ("streamward", {"operating_points": 5}, "operating_points is 5; it must be an object"),
        ("streamward", {"operating_points": {"answer": {}}}, "operating_points has 'answer'; sides are"),
        ("streamward", {"operating_points": {"prompt": {"unsafe": 0.5}}}, "operating_points.prompt needs the numbers"),
        ("streamward", {"operating_points": {"prompt": 5}}, "operating_points.prompt needs the numbers"),
        (
            "streamward",
            {"operating_points": {"prompt": {"unsafe": float("nan"), "controversial": 0.5}}},
            "operating_points.prompt needs the numbers",
        ),
        ("streamward", {"window_tokens": -1}, "window_tokens is -1"),
    ],
)
def test_a_broken_label_map_or_note_is_named(tmp_path: Path, key: str, value: Any, message: str) -> None:
    folder = stream_checkpoint().with_config(**{key: value}).write(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_stream(folder, dtype=torch.float32)
