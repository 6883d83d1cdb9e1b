"""Checkpoints survive loading and saving; what is broken is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from streamward.errors import CheckpointError
from streamward.model.checkpoint import load_gen, load_stream, save_checkpoint
from streamward.model.checkpoint_files import INDEX_FILE, SINGLE_FILE
from streamward.model.config import parse_model_config
from streamward.model.guard_config import parse_guard_config
from tests.model.checkpoints import Checkpoint, gen_checkpoint, read_tensors, stream_checkpoint

FAMILIES = ["qwen3", "llama"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def assert_same_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_stream_guard_saved_again_is_the_same(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    checkpoint = stream_checkpoint(family, dtype=dtype)
    model = load_stream(checkpoint.write(tmp_path / "given"), dtype=dtype)
    save_checkpoint(model, tmp_path / "saved")
    assert_same_tensors(read_tensors(tmp_path / "saved"), dict(checkpoint.tensors))
    again = load_stream(tmp_path / "saved", dtype=dtype)
    assert again.decoder.config == model.decoder.config
    assert again.guard_config == model.guard_config
    assert_same_tensors(dict(again.named_parameters()), dict(model.named_parameters()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_a_gen_guard_saved_again_is_the_same(tmp_path: Path, family: str, is_tied: bool) -> None:
    checkpoint = gen_checkpoint(family, is_tied=is_tied)
    model = load_gen(checkpoint.write(tmp_path / "given"), dtype=torch.float32)
    save_checkpoint(model, tmp_path / "saved")
    assert_same_tensors(read_tensors(tmp_path / "saved"), dict(checkpoint.tensors))
    again = load_gen(tmp_path / "saved", dtype=torch.float32)
    assert again.decoder.config == model.decoder.config
    assert (again.lm_head.weight is again.decoder.embed.weight) is is_tied


def test_an_untied_head_is_its_own(tmp_path: Path) -> None:
    checkpoint = gen_checkpoint(is_tied=False)
    model = load_gen(checkpoint.write(tmp_path), dtype=torch.float32)
    torch.testing.assert_close(model.lm_head.weight.data, checkpoint.tensors["lm_head.weight"])


def test_a_saved_config_keeps_the_keys_of_the_published_one(tmp_path: Path) -> None:
    checkpoint = stream_checkpoint()
    save_checkpoint(load_stream(checkpoint.write(tmp_path / "a"), dtype=torch.float32), tmp_path / "b")
    saved = json.loads((tmp_path / "b" / "config.json").read_text())
    assert saved["architectures"] == ["Qwen3ForGuardModel"]
    assert saved["torch_dtype"] == "float32"
    expected = dict(checkpoint.config)
    for key in ("max_window_layers", "rope_scaling", "sliding_window", "torch_dtype", "use_cache"):
        expected.pop(key)
    expected.pop("use_sliding_window")
    assert {key: saved[key] for key in expected} == expected


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16])
def test_any_float_dtype_is_read(tmp_path: Path, stored: torch.dtype, loaded: torch.dtype) -> None:
    checkpoint = stream_checkpoint(dtype=stored)
    model = load_stream(checkpoint.write(tmp_path), dtype=loaded)
    assert {parameter.dtype for parameter in model.parameters()} == {loaded}
    expected = checkpoint.tensors["model.embed_tokens.weight"].to(loaded)
    torch.testing.assert_close(model.decoder.embed.weight.data, expected, atol=0, rtol=0)
    assert model.decoder.cos_Pr.dtype is torch.float32


def test_shards_and_one_file_are_the_same_model(tmp_path: Path) -> None:
    model = load_stream(stream_checkpoint().write(tmp_path / "one"), dtype=torch.float32)
    save_checkpoint(model, tmp_path / "many", max_shard_bytes=4000)
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
    assert not (tmp_path / "many" / SINGLE_FILE).exists()
    again = load_stream(tmp_path / "many", dtype=torch.float32)
    assert_same_tensors(dict(again.named_parameters()), dict(model.named_parameters()))


def test_the_index_of_shards_names_the_file_of_each_tensor(tmp_path: Path) -> None:
    model = load_gen(gen_checkpoint().write(tmp_path / "one"), dtype=torch.float32)
    save_checkpoint(model, tmp_path, max_shard_bytes=4000)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    tensors = read_tensors(tmp_path)
    assert sorted(index["weight_map"]) == sorted(tensors)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize(("first", "second"), [(10**9, 4000), (4000, 10**9)])
def test_saving_over_an_older_save_leaves_the_newer(tmp_path: Path, first: int, second: int) -> None:
    model = load_gen(gen_checkpoint().write(tmp_path / "given"), dtype=torch.float32)
    save_checkpoint(model, tmp_path / "saved", max_shard_bytes=first)
    model.decoder.norm.weight.data.fill_(0.25)
    save_checkpoint(model, tmp_path / "saved", max_shard_bytes=second)
    again = load_gen(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(again.decoder.norm.weight.data, torch.full((24,), 0.25))


def test_a_stream_guard_may_carry_a_language_model_head(tmp_path: Path) -> None:
    checkpoint = stream_checkpoint().with_tensor("lm_head.weight", torch.zeros(50, 24))
    load_stream(checkpoint.write(tmp_path), dtype=torch.float32)


def test_the_published_config_is_read_in_the_published_label_order(tmp_path: Path) -> None:
    published = {
        "head_dim": 128,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 8192,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "vocab_size": 151936,
        "guard_inner_size": 512,
    }
    raw = stream_checkpoint().with_config(**published).config
    config, guard = parse_model_config(raw), parse_guard_config(raw)
    assert (config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads) == (1024, 28, 16, 8)
    assert (config.head_dim, config.intermediate_size, config.vocab_size) == (128, 3072, 151936)
    assert (config.rope_theta, config.rms_norm_eps, config.max_positions) == (1e6, 1e-6, 8192)
    assert config.has_tied_embeddings
    assert config.has_qk_norm
    assert guard.inner_size == 512
    assert [level.value for level in guard.response.risk_levels] == ["Safe", "Unsafe", "Controversial"]
    assert guard.prompt.risk_levels == guard.response.risk_levels
    assert [category.value for category in guard.prompt.categories] == [
        "Violent",
        "Sexual Content or Sexual Acts",
        "Suicide & Self-Harm",
        "Politically Sensitive Topics",
        "PII",
        "Copyright Violation",
        "Non-violent Illegal Acts",
        "Unethical Acts",
        "Jailbreak",
    ]
    assert guard.response.categories == guard.prompt.categories[:8]


def test_label_maps_are_followed_where_they_differ_from_the_published_order() -> None:
    raw = (
        stream_checkpoint().with_config(query_risk_level_map={"2": "Safe", "0": "Unsafe", "1": "Controversial"}).config
    )
    levels = [level.value for level in parse_guard_config(raw).prompt.risk_levels]
    assert levels == ["Unsafe", "Controversial", "Safe"]


Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
HEAD = "query_category_head.weight"
BROKEN_TENSORS = {
    "missing": (stream_checkpoint().without_tensor(Q_PROJ), rf"lacks 1 of \d+ tensors: {Q_PROJ}"),
    "missing head": (stream_checkpoint().without_tensor(HEAD), rf"lacks 1 of \d+ tensors: {HEAD}"),
    "unknown": (
        stream_checkpoint().with_tensor("model.layers.2.bias", torch.zeros(1)),
        r"has unknown .*model\.layers\.2\.bias",
    ),
    "q norm in a llama": (
        stream_checkpoint("llama").with_tensor("model.layers.0.self_attn.q_norm.weight", torch.ones(8)),
        r"has unknown .*model\.layers\.0\.self_attn\.q_norm",
    ),
    "wrong shape": (
        stream_checkpoint().with_tensor(Q_PROJ, torch.zeros(24, 32)),
        rf"{Q_PROJ} has shape \[24, 32\]; expected \[32, 24\]",
    ),
    "wrong head": (
        stream_checkpoint().with_tensor(HEAD, torch.zeros(8, 12)),
        rf"{HEAD} has shape \[8, 12\]; expected \[9, 12\]",
    ),
    "one dimension too many": (
        stream_checkpoint().with_tensor("model.norm.weight", torch.zeros(24, 1)),
        r"model\.norm\.weight has shape \[24, 1\]; expected \[24\]",
    ),
    "integers": (
        stream_checkpoint().with_tensor(Q_PROJ, torch.zeros(32, 24, dtype=torch.int8)),
        rf"{Q_PROJ} is of I8; expected one of BF16, F16, F32, F64",
    ),
    "unscaled float8": (
        stream_checkpoint().with_tensor(Q_PROJ, torch.zeros(32, 24).to(torch.float8_e4m3fn)),
        rf"{Q_PROJ} is of F8_E4M3; expected one of",
    ),
}


@pytest.mark.parametrize("case", BROKEN_TENSORS)
def test_a_wrong_tensor_is_refused_by_name(tmp_path: Path, case: str) -> None:
    checkpoint, message = BROKEN_TENSORS[case]
    with pytest.raises(CheckpointError, match=message):
        load_stream(checkpoint.write(tmp_path), dtype=torch.float32)


def test_an_untied_gen_guard_needs_its_head(tmp_path: Path) -> None:
    checkpoint = gen_checkpoint(is_tied=False).without_tensor("lm_head.weight")
    with pytest.raises(CheckpointError, match=r"lacks 1 of \d+ tensors: lm_head\.weight"):
        load_gen(checkpoint.write(tmp_path), dtype=torch.float32)


def test_many_missing_tensors_are_counted_and_some_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint(gen_checkpoint().config, {"model.norm.weight": torch.ones(24)})
    with pytest.raises(CheckpointError, match=r"lacks 23 of 24 tensors: model\.embed_tokens\.weight, .* and 18 more"):
        load_gen(checkpoint.write(tmp_path), dtype=torch.float32)


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 5000])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    file = gen_checkpoint().write(tmp_path) / SINGLE_FILE
    content = file.read_bytes()
    assert len(content) > kept
    file.write_bytes(content[:kept])
    with pytest.raises(CheckpointError, match=rf"{SINGLE_FILE} is damaged or no safetensors file"):
        load_gen(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize("content", [b"not safetensors at all", b"\xff" * 64, b"\x80\x04\x95pickle"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (gen_checkpoint().write(tmp_path) / SINGLE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load_gen(tmp_path, dtype=torch.float32)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (gen_checkpoint().write(tmp_path) / SINGLE_FILE).unlink()
    (tmp_path / SINGLE_FILE).mkdir()
    with pytest.raises(CheckpointError, match=SINGLE_FILE):
        load_gen(tmp_path, dtype=torch.float32)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    checkpoint = gen_checkpoint()
    (checkpoint.write(tmp_path) / SINGLE_FILE).unlink()
    torch.save(dict(checkpoint.tensors), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"contains neither model\.safetensors nor .*; only safetensors is read"):
        load_gen(tmp_path, dtype=torch.float32)


def sharded(folder: Path) -> Path:
    save_checkpoint(
        load_gen(gen_checkpoint().write(folder / "one"), dtype=torch.float32), folder / "many", max_shard_bytes=4000
    )
    return folder / "many"


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name} is missing; {INDEX_FILE} names it"):
        load_gen(folder, dtype=torch.float32)


@pytest.mark.parametrize("name", ["../one/model.safetensors", "/etc/hostname", "sub/model.safetensors", ".", "..", ""])
def test_an_index_that_points_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with pytest.raises(CheckpointError, match=r"names .*; files must lie in the checkpoint's folder"):
        load_gen(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "5", '{"weight_map": []}', '{"weight_map": 1}', '{"metadata": {}}', '{"weight_map": null}'],
)
def test_a_broken_index_is_refused_by_name(tmp_path: Path, content: str) -> None:
    folder = sharded(tmp_path)
    (folder / INDEX_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=f"{INDEX_FILE} must be JSON with a weight_map"):
        load_gen(folder, dtype=torch.float32)


def test_an_index_of_nothing_is_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / INDEX_FILE).write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match="lacks 24 of 24 tensors"):
        load_gen(folder, dtype=torch.float32)


def test_a_tensor_in_two_shards_is_refused_by_name(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    save_file({"model.norm.weight": torch.ones(24)}, folder / "extra.safetensors")
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"]["model.norm.bias"] = "extra.safetensors"
    (folder / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is in two files"):
        load_gen(folder, dtype=torch.float32)
